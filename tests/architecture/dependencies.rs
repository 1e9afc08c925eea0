//! What the product is built from, held against deny.toml by the lines that `cargo deny check` reads: licences, bans, sources. That
//! tool has to be installed and takes minutes to compile; this asks Cargo, and needs no network. Does not know: advisories.

use super::root;
use serde::Deserialize;
use serde_json::{Value, json};
use spdx::{Expression, ParseMode};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// deny.toml. A key of these three tables that nothing here looks at is refused: it would seem to be held.
#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Bans {
    multiple_versions: String,
    wildcards: String,
    allow_wildcard_paths: bool,
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
    /// Who may depend on it all the same.
    #[serde(default)]
    wrappers: BTreeSet<String>,
    /// It may be there, once.
    #[serde(default)]
    deny_multiple_versions: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    unknown_registry: String,
    unknown_git: String,
}

/// A package that is not ours, as `cargo metadata` tells it.
#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    source: Option<String>,
    license: Option<String>,
    rust_version: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    req: String,
    path: Option<String>,
}

#[test]
fn nothing_is_built_in_that_deny_toml_forbids() {
    assert_eq!(complaints(&rules(), &metadata()), Vec::<String>::new());
}

#[test]
fn every_dependency_builds_with_the_oldest_rust_that_is_promised() {
    let metadata = metadata();
    let packages = packages(&metadata);
    let ours = packages.iter().find(|package| package.name == "outboxd").unwrap();
    let promised = number(ours.rust_version.as_deref().expect("Cargo.toml names the oldest Rust"));
    let newer = |package: &&Package| package.rust_version.as_deref().is_some_and(|oldest| number(oldest) > promised);
    let newer: Vec<&Package> = packages.iter().filter(newer).collect();
    assert!(newer.is_empty(), "Cargo.toml promises Rust {promised:?}: {newer:#?}");
}

/// The guard above, on dependencies that break each kind of rule.
#[test]
fn a_forbidden_dependency_is_seen() {
    let rules = rules();
    let real = metadata();
    let seen = |what: &str, change: &dyn Fn(&mut Value)| {
        let mut changed = real.clone();
        change(&mut changed);
        let complaints = complaints(&rules, &changed);
        assert!(complaints.iter().any(|line| line.contains(what)), "{what}: {complaints:?}");
    };
    seen("tokio 1.0.0 is built in", &|it| add(it, "tokio", "MIT", "log"));
    seen("is built in 2 times", &|it| add(it, "rusqlite", "MIT", "outboxd"));
    seen("cc 1.0.0 is built in, for log", &|it| add(it, "cc", "MIT", "log"));
    seen("evil 1.0.0 is under GPL-3.0-only", &|it| add(it, "evil", "GPL-3.0-only", "log"));
    seen("evil 1.0.0 is under MIT AND GPL-3.0-only", &|it| add(it, "evil", "MIT AND GPL-3.0-only", "log"));
    seen("evil 1.0.0 names no licence", &|it| add(it, "evil", "", "log"));
    seen("comes from git+", &|it| {
        add(it, "evil", "MIT", "log");
        it["packages"].as_array_mut().unwrap().last_mut().unwrap()["source"] = json!("git+file:///evil");
    });
    seen("takes any version of evil", &|it| {
        let ours = |package: &&mut Value| package["name"] == "outboxd";
        let ours = it["packages"].as_array_mut().unwrap().iter_mut().find(ours).unwrap();
        ours["dependencies"].as_array_mut().unwrap().push(json!({ "name": "evil", "req": "*" }));
    });

    let mut rules = rules;
    rules.licenses.allow.insert("MPL-2.0".to_owned());
    assert_eq!(complaints(&rules, &real), ["deny.toml allows MPL-2.0, which nothing needs"]);
}

/// What deny.toml finds fault with.
fn complaints(rules: &Rules, metadata: &Value) -> Vec<String> {
    let Bans { multiple_versions, wildcards, allow_wildcard_paths, deny } = &rules.bans;
    let held = (multiple_versions.as_str(), wildcards.as_str(), *allow_wildcard_paths);
    assert_eq!(held, ("allow", "deny", true), "this test holds no other");
    let Sources { unknown_registry, unknown_git } = &rules.sources;
    assert_eq!((unknown_registry.as_str(), unknown_git.as_str()), ("deny", "deny"), "this test holds no other");

    let packages = packages(metadata);
    let name_of: BTreeMap<&str, &str> = packages.iter().map(|it| (it.id.as_str(), it.name.as_str())).collect();
    let mut out = Vec::new();
    let mut needed = BTreeSet::new();
    for package in &packages {
        let Package { name, version, .. } = package;
        for dependency in package.dependencies.iter().filter(|it| package.source.is_none() && it.path.is_none()) {
            if dependency.req == "*" {
                out.push(format!("{name} takes any version of {}", dependency.name));
            }
        }
        let Some(source) = &package.source else { continue };
        if !source.starts_with("registry+") {
            out.push(format!("{name} {version} comes from {source}"));
        }
        let Some(license) = package.license.as_deref().filter(|license| !license.is_empty()) else {
            out.push(format!("{name} {version} names no licence"));
            continue;
        };
        let expression = Expression::parse_mode(license, ParseMode::LAX).unwrap_or_else(|error| panic!("{error}"));
        let allowed = expression.evaluate(|asked| {
            let asked = asked.to_string();
            let allowed = rules.licenses.allow.contains(&asked);
            if allowed {
                needed.insert(asked);
            }
            allowed
        });
        if !allowed {
            out.push(format!("{name} {version} is under {license}"));
        }
    }
    for license in rules.licenses.allow.difference(&needed) {
        out.push(format!("deny.toml allows {license}, which nothing needs"));
    }
    for ban in deny {
        let there: Vec<&Package> = packages.iter().filter(|package| package.name == ban.name).collect();
        if ban.deny_multiple_versions {
            if there.len() > 1 {
                out.push(format!("{} is built in {} times: {}", ban.name, there.len(), ban.reason));
            }
            continue;
        }
        for package in there {
            let users: BTreeSet<&str> = users(metadata, &package.id).iter().map(|id| name_of[id.as_str()]).collect();
            let others: Vec<&str> = users.into_iter().filter(|user| !ban.wrappers.contains(*user)).collect();
            if ban.wrappers.is_empty() || !others.is_empty() {
                let others = others.join(", ");
                out.push(format!("{} {} is built in, for {others}: {}", package.name, package.version, ban.reason));
            }
        }
    }
    out
}

fn rules() -> Rules {
    toml::from_str(&std::fs::read_to_string(root().join("deny.toml")).unwrap()).unwrap()
}

/// What the workspace and its tests are built from on this kind of machine, with every feature.
fn metadata() -> Value {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["metadata", "--format-version", "1", "--locked", "--offline", "--all-features"]);
    let output = cargo.args(["--filter-platform", &target]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packages(metadata: &Value) -> Vec<Package> {
    let packages = Vec::deserialize(&metadata["packages"]).unwrap();
    assert!(packages.len() > 60, "only {} packages: looked at the wrong place?", packages.len());
    packages
}

/// The ids of the packages that depend on one.
fn users(metadata: &Value, id: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Node {
        id: String,
        dependencies: Vec<String>,
    }
    let nodes: Vec<Node> = Vec::deserialize(&metadata["resolve"]["nodes"]).unwrap();
    nodes.into_iter().filter(|node| node.dependencies.iter().any(|it| it == id)).map(|node| node.id).collect()
}

/// `[1, 89]` of "1.89" and of "1.89.0".
fn number(version: &str) -> [u32; 2] {
    let mut parts = version.split('.').map(|part| part.parse().unwrap());
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

/// Adds a package 1.0.0 of that name, which one other depends on.
fn add(metadata: &mut Value, name: &str, license: &str, user: &str) {
    let id = format!("{name}@1.0.0 of a test");
    let package = json!({
        "id": id, "name": name, "version": "1.0.0", "source": "registry+there", "license": license,
        "rust_version": null, "dependencies": [],
    });
    metadata["packages"].as_array_mut().unwrap().push(package);
    let user = packages(metadata).into_iter().find(|package| package.name == user).unwrap().id;
    let nodes = metadata["resolve"]["nodes"].as_array_mut().unwrap();
    let node = nodes.iter_mut().find(|node| node["id"] == user.as_str()).unwrap();
    node["dependencies"].as_array_mut().unwrap().push(json!(id));
    nodes.push(json!({ "id": id, "dependencies": [] }));
}
