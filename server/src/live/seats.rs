//! How many sockets there may be.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_model::{ProjectId, TokenId, UserId};

use crate::accounts::ProjectAccess;

/// Sockets of one project in this control plane.
pub const SOCKETS_PER_PROJECT: usize = 200;
/// Sockets of one user or one token in this control plane: open pages, on all their machines.
pub const SOCKETS_PER_HOLDER: usize = 40;

/// The places of this control plane. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Seats(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    by_project: HashMap<ProjectId, usize>,
    by_holder: HashMap<Holder, usize>,
}

/// Whose the socket is.
type Holder = (Option<UserId>, Option<TokenId>);

/// A place that is taken, until it is dropped.
pub(super) struct Seat {
    seats: Seats,
    project: ProjectId,
    holder: Holder,
}

impl Seats {
    /// A place for one more socket, if there is one.
    pub(super) fn take(&self, access: &ProjectAccess) -> Option<Seat> {
        let (project, holder) = (access.project, (access.user, access.token()));
        let mut taken = self.lock();
        let of_project = taken.by_project.get(&project).is_none_or(|n| *n < SOCKETS_PER_PROJECT);
        let of_holder = taken.by_holder.get(&holder).is_none_or(|n| *n < SOCKETS_PER_HOLDER);
        if !of_project || !of_holder {
            return None;
        }
        *taken.by_project.entry(project).or_default() += 1;
        *taken.by_holder.entry(holder).or_default() += 1;
        metrics::gauge!("berth_live_sockets").increment(1);
        Some(Seat { seats: self.clone(), project, holder })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Two additions: nothing that could panic between them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        free(&mut taken.by_project, &self.project);
        free(&mut taken.by_holder, &self.holder);
        metrics::gauge!("berth_live_sockets").decrement(1);
    }
}

fn free<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_model::AccountId;

    use super::*;
    use crate::accounts::Key;

    fn access(project: i64, user: i64) -> ProjectAccess {
        let (project, account) = (ProjectId(project), AccountId(1));
        ProjectAccess { project, account, user: Some(UserId(user)), key: Key::Session([0; 32]) }
    }

    #[test]
    fn a_holder_has_so_many_places_and_gets_them_back() {
        let seats = Seats::default();
        let mut taken: Vec<_> = (0..SOCKETS_PER_HOLDER).map(|_| seats.take(&access(1, 1)).unwrap()).collect();
        assert!(seats.take(&access(1, 1)).is_none());
        assert!(seats.take(&access(2, 1)).is_none(), "in another project neither");
        assert!(seats.take(&access(1, 2)).is_some(), "another user is not in the way");
        taken.pop();
        assert!(seats.take(&access(1, 1)).is_some());
        drop(taken);
        assert!(seats.lock().by_holder.is_empty() && seats.lock().by_project.is_empty());
    }
}
