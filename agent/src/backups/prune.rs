//! Which backups stay: pure rules.

use std::collections::BTreeSet;

use berth_model::Timestamp;
use berth_model::agent::BackupKeep;

/// A backup, as the rules see it. The index is its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// When it was taken.
    pub taken: Timestamp,
    /// The index of the one it builds on.
    pub builds_on: Option<usize>,
}

/// The day, week or month of a moment.
type Period = fn(Timestamp) -> (i32, u16);

/// The indices of those that stay, of backups with the oldest first: a clock that went back makes none older.
pub fn stay(backups: &[Kept], keep: BackupKeep) -> BTreeSet<usize> {
    let newest_first: Vec<usize> = (0..backups.len()).rev().collect();
    let mut stay: BTreeSet<usize> = newest_first.iter().copied().take(keep.last as usize).collect();
    let rules: [(u32, Period); 3] = [(keep.daily, day), (keep.weekly, week), (keep.monthly, month)];
    for (count, period) in rules {
        let mut seen = BTreeSet::new();
        for index in &newest_first {
            if seen.len() < count as usize && seen.insert(period(backups[*index].taken)) {
                stay.insert(*index);
            }
        }
    }
    for mut index in stay.clone() {
        while let Some(base) = backups[index].builds_on {
            if !stay.insert(base) {
                break;
            }
            index = base;
        }
    }
    stay
}

fn day(at: Timestamp) -> (i32, u16) {
    at.0.to_ordinal_date()
}

fn week(at: Timestamp) -> (i32, u16) {
    let (year, week, _) = at.0.to_iso_week_date();
    (year, week.into())
}

fn month(at: Timestamp) -> (i32, u16) {
    (at.0.year(), u8::from(at.0.month()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: BackupKeep = BackupKeep { last: 0, daily: 0, weekly: 0, monthly: 0 };

    fn at(day: i64, hour: i64) -> Timestamp {
        // Thursday, 2026-01-01.
        Timestamp::from_unix_ms((20454 * 24 + day * 24 + hour) * 3_600_000).unwrap()
    }

    fn fulls(taken: &[(i64, i64)]) -> Vec<Kept> {
        taken.iter().map(|(day, hour)| Kept { taken: at(*day, *hour), builds_on: None }).collect()
    }

    #[test]
    fn the_newest_of_each_day_week_and_month_stays() {
        let _proof = crate::proof::pure(&["backup.prune"]);
        // Days 0 and 1 are Thursday and Friday; 4 is Monday; 31 is the first of February.
        let backups = fulls(&[(0, 1), (0, 23), (1, 5), (4, 5), (31, 0), (31, 9)]);
        let kept = |keep| stay(&backups, keep).into_iter().collect::<Vec<_>>();
        assert_eq!(kept(BackupKeep { last: 2, ..NONE }), [4, 5]);
        assert_eq!(kept(BackupKeep { daily: 3, ..NONE }), [2, 3, 5]);
        assert_eq!(kept(BackupKeep { daily: 9, ..NONE }), [1, 2, 3, 5]);
        assert_eq!(kept(BackupKeep { weekly: 9, ..NONE }), [2, 3, 5]);
        assert_eq!(kept(BackupKeep { monthly: 2, ..NONE }), [3, 5]);
        assert_eq!(kept(NONE), [] as [usize; 0]);
    }

    #[test]
    fn what_a_kept_one_builds_on_stays() {
        let mut backups = fulls(&[(0, 0), (1, 0), (2, 0), (3, 0)]);
        backups[1].builds_on = Some(0);
        backups[2].builds_on = Some(1);
        let kept: Vec<_> = stay(&backups, BackupKeep { last: 2, ..NONE }).into_iter().collect();
        assert_eq!(kept, [0, 1, 2, 3]);
        let kept: Vec<_> = stay(&backups, BackupKeep { last: 1, ..NONE }).into_iter().collect();
        assert_eq!(kept, [3]);
    }

    proptest! {
        #[test]
        fn rules_hold_for_any_backups(
            taken in proptest::collection::vec((0_i64..800, 0_i64..24, any::<bool>()), 1..40),
            (last, daily, weekly, monthly) in (0_u32..5, 0_u32..5, 0_u32..5, 0_u32..5),
        ) {
            let mut backups = Vec::new();
            for (index, (day, hour, builds)) in taken.iter().enumerate() {
                let builds_on = (*builds && index > 0).then(|| index - 1);
                backups.push(Kept { taken: at(*day, *hour), builds_on });
            }
            let keep = BackupKeep { last, daily, weekly, monthly };
            let stays = stay(&backups, keep);
            let newest = backups.len() - 1;
            // The newest goes only when nothing is kept at all.
            prop_assert_eq!(stays.contains(&newest), keep != NONE);
            prop_assert_eq!(stays.is_empty(), keep == NONE);
            prop_assert!(stays.len() >= backups.len().min(last as usize));
            for index in &stays {
                prop_assert!(backups[*index].builds_on.is_none_or(|base| stays.contains(&base)));
            }
            // More is never less.
            let more = BackupKeep { last: last + 1, daily: daily + 1, weekly: weekly + 1, monthly: monthly + 1 };
            prop_assert!(stay(&backups, more).is_superset(&stays));
            // Without chains, no more stay than the rules count, and pruning again removes nothing.
            let alone: Vec<_> = backups.iter().map(|kept| Kept { builds_on: None, ..*kept }).collect();
            let stays = stay(&alone, keep);
            prop_assert!(stays.len() <= (last + daily + weekly + monthly) as usize);
            let rest: Vec<_> = stays.iter().map(|index| alone[*index]).collect();
            prop_assert_eq!(stay(&rest, keep).len(), rest.len());
        }
    }
}
