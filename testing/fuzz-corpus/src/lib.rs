//! The inputs in a `fuzz/corpus/`, through what the fuzz targets do with theirs: what a fuzzer found once is asked for ever after.
//!
//! Promises: a corpus that tests nothing, and targets without one, are failures. Does not know: what is decoded.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The most that a corpus may weigh: it is downloaded by everybody, and run by every `cargo test`.
const BYTES_MAX: u64 = 500_000;

/// What a target does with its bytes: panics when a decoder breaks its word, and says otherwise whether it took the input.
pub type Body = fn(&[u8]) -> bool;

/// A `fuzz/` with its targets.
#[derive(Clone, Copy, Debug)]
pub struct Corpus<'a> {
    /// The folder of the package that is fuzzed.
    pub manifest_dir: &'a str,
    /// What the fuzz targets call the library with the bodies.
    pub library: &'a str,
    /// Each body by the name that its file in `fuzz_targets/` and its folder in `corpus/` have.
    pub targets: &'a [(&'a str, Body)],
}

impl Corpus<'_> {
    /// Runs every input through its target.
    pub fn assert_no_decoder_breaks_its_word(&self) {
        let mut failed = Vec::new();
        for (target, body) in self.targets {
            for (path, input) in self.inputs(target) {
                if catch_unwind(AssertUnwindSafe(|| body(&input))).is_err() {
                    failed.push(path);
                }
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    /// A corpus of which everything is refused at the first byte would test nothing.
    pub fn assert_good_and_bad_inputs(&self) {
        let mut bytes = 0;
        for (target, body) in self.targets {
            let (good, bad): (Vec<_>, Vec<_>) = self.inputs(target).into_iter().partition(|(_, input)| body(input));
            assert!(!good.is_empty(), "fuzz/corpus/{target} has nothing that is accepted");
            assert!(!bad.is_empty(), "fuzz/corpus/{target} has nothing that is refused");
            bytes += good.iter().chain(&bad).map(|(_, input)| input.len() as u64).sum::<u64>();
        }
        assert!(bytes <= BYTES_MAX, "{bytes} bytes are more than {BYTES_MAX}");
    }

    /// Bodies, targets and corpora have the same names.
    pub fn assert_same_names(&self) {
        let bodies: BTreeSet<String> = self.targets.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(self.names_in("corpus"), bodies);
        let files: BTreeSet<String> = bodies.iter().map(|name| format!("{name}.rs")).collect();
        assert_eq!(self.names_in("fuzz_targets"), files);
        let manifest = fs::read_to_string(self.folder("Cargo.toml")).unwrap();
        for name in &bodies {
            let path = format!("fuzz_targets/{name}.rs");
            let named = manifest.contains(&format!("name = \"{name}\"\npath = \"{path}\""));
            assert!(named, "fuzz/Cargo.toml lacks {name}");
            let file = fs::read_to_string(self.folder(&path)).unwrap();
            assert!(file.contains(&format!("{}::{name}(input)", self.library)), "{path} runs another body");
        }
    }

    /// A target's inputs, sorted by path.
    pub fn inputs(&self, target: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let folder = self.folder("corpus").join(target);
        let mut files: Vec<PathBuf> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    /// Writes a seed that is not there yet, and no other: one with random numbers in it would be another each time, for nothing.
    pub fn write_seed(&self, target: &str, name: &str, input: &[u8]) {
        let folder = self.folder("corpus").join(target);
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("seed-{name}"));
        if !path.exists() {
            fs::write(path, input).unwrap();
        }
    }

    fn names_in(&self, folder: &str) -> BTreeSet<String> {
        fs::read_dir(self.folder(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn folder(&self, within: &str) -> PathBuf {
        Path::new(self.manifest_dir).join("fuzz").join(within)
    }
}
