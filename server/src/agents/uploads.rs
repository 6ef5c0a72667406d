//! Images on their way to nodes. Each may take half an hour, and all the while a worker: so only a
//! few go at once, and none goes twice to the same node.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_model::NodeId;

/// Those under way from this process.
#[derive(Debug, Clone, Default)]
pub(super) struct Uploads(Arc<Mutex<HashSet<(NodeId, String)>>>);

/// Leave to send an image to a node, until it is dropped.
#[derive(Debug)]
pub struct Upload {
    under_way: Uploads,
    image: (NodeId, String),
}

impl Uploads {
    /// `None` when `max` are under way, or this one is.
    pub(super) fn begin(&self, node: NodeId, sha256: &str, max: usize) -> Option<Upload> {
        let image = (node, sha256.to_owned());
        let mut under_way = self.held();
        let begins = under_way.len() < max && under_way.insert(image.clone());
        begins.then(|| Upload { under_way: self.clone(), image })
    }

    fn held(&self) -> MutexGuard<'_, HashSet<(NodeId, String)>> {
        // Single inserts and removes: whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.under_way.held().remove(&self.image);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_uploads_go_at_once_and_none_twice() {
        let uploads = Uploads::default();
        let first = uploads.begin(NodeId(1), "a", 2);
        assert!(first.is_some() && uploads.begin(NodeId(1), "a", 2).is_none(), "it is under way");
        let second = uploads.begin(NodeId(2), "a", 2);
        assert!(second.is_some() && uploads.begin(NodeId(1), "b", 2).is_none(), "two are under way");
        drop(first);
        assert!(uploads.begin(NodeId(1), "b", 2).is_some());
    }
}
