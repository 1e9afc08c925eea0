//! Which cluster this is: the first that answered with a name, for the life of the process.
//!
//! Promises: pure; a stranger is told from ours before anything is sent to it (invariant I4). Does not know: connections, batches.

use crate::error::OTHER_CLUSTER_HINT;
use crate::outcome::Why;
use std::sync::{Arc, OnceLock};

/// Set once: whoever means to change the cluster restarts, and then everything that was in flight is judged anew.
#[derive(Debug, Default)]
pub(crate) struct ClusterIdentity(OnceLock<Arc<str>>);

impl ClusterIdentity {
    /// `None`: nobody has named it yet.
    pub(crate) fn name(&self) -> Option<Arc<str>> {
        self.0.get().cloned()
    }

    /// Whether a broker that calls its cluster so is one of ours; else our name and theirs. One that has no name for it can't be told
    /// apart.
    pub(super) fn belongs(&self, theirs: Option<&str>) -> Result<(), (Arc<str>, Arc<str>)> {
        let Some(theirs) = theirs else { return Ok(()) };
        let ours = self.0.get_or_init(|| theirs.into());
        if **ours == *theirs { Ok(()) } else { Err((Arc::clone(ours), theirs.into())) }
    }

    /// The same of an answer to Metadata, in words.
    pub(super) fn check(&self, theirs: Option<&str>) -> Result<(), Why> {
        self.belongs(theirs).map_err(|(ours, theirs)| {
            Why::new(format!(
                "the brokers belong to Kafka cluster {theirs} now, and this run works with cluster {ours}"
            ))
            .hint(OTHER_CLUSTER_HINT)
        })
    }

    /// Why a batch of that cluster must neither be sent here nor asked about.
    pub(crate) fn foreign(&self, of: Option<&str>) -> Option<Why> {
        let (ours, of) = (self.0.get()?, of?);
        (**ours != *of)
            .then(|| Why::new(format!("this is Kafka cluster {ours}, and an earlier run sent to cluster {of}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_stands_and_no_name_proves_nothing() {
        let id = ClusterIdentity::default();
        assert!(id.belongs(None).is_ok());
        assert_eq!((id.name(), id.foreign(Some("a"))), (None, None));
        assert!(id.belongs(Some("a")).is_ok());
        assert!(id.belongs(Some("a")).is_ok() && id.belongs(None).is_ok());
        assert_eq!(id.belongs(Some("b")), Err(("a".into(), "b".into())));
        assert_eq!(id.name().as_deref(), Some("a"), "whoever came later changes nothing");
        assert!(id.check(Some("b")).unwrap_err().hint.contains("restart outboxd"));
        assert_eq!((id.foreign(None), id.foreign(Some("a"))), (None, None));
        assert!(id.foreign(Some("b")).is_some());
    }
}
