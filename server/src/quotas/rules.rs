//! Pure decisions: which limits hold where nobody set others, and what is said when one is reached.

use std::collections::BTreeMap;

use berth_model::FieldError;
use berth_model::quota::{Limit, LimitRequestCreate, QuotaKind};
use serde::{Deserialize, Deserializer};

use crate::servers::rules::fault;

/// Most characters of a reason or a note.
pub const TEXT_MAX_CHARS: usize = 1000;

/// Limits by kind, from the settings: `{ servers = 5, cores = 20 }`. A kind that is not named has the limit
/// that Berth comes with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits(BTreeMap<QuotaKind, u32>);

impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self)
    }
}

impl Limits {
    /// Of a project.
    pub fn of_project(&self, kind: QuotaKind) -> i64 {
        self.0.get(&kind).copied().unwrap_or_else(|| usual(kind)).into()
    }

    /// Of an account, over all its projects, which have the limits `of_projects`.
    pub fn of_account(&self, kind: QuotaKind, of_projects: &Self) -> i64 {
        self.0
            .get(&kind)
            .map_or_else(|| of_projects.of_project(kind) * PROJECTS_WORTH, |most| i64::from(*most))
    }
}

/// An account may have as much as so many full projects.
const PROJECTS_WORTH: i64 = 4;

/// What a project may have in a new installation.
const fn usual(kind: QuotaKind) -> u32 {
    match kind {
        QuotaKind::Servers
        | QuotaKind::Volumes
        | QuotaKind::Snapshots
        | QuotaKind::Networks
        | QuotaKind::Firewalls
        | QuotaKind::PlacementGroups
        | QuotaKind::Certificates => 100,
        // A server has two.
        QuotaKind::PrimaryIps => 200,
        QuotaKind::Cores => 400,
        QuotaKind::MemoryMib => 1_048_576,
        QuotaKind::VolumeGib => 102_400,
        QuotaKind::FloatingIps => 20,
        QuotaKind::SshKeys => 200,
        QuotaKind::Webhooks => 10,
    }
}

/// Says that a limit is passed, or nothing.
pub fn exceeded(limit: &Limit) -> Option<String> {
    let (who, most) = if limit.used > limit.limit {
        ("This project", limit.limit)
    } else if limit.account_used > limit.account_limit {
        ("This account", limit.account_limit)
    } else {
        return None;
    };
    let things = limit.kind.things();
    Some(format!(
        "{who} may have at most {most} {things}. Remove some, or ask for more with a limit request."
    ))
}

/// Everything that is wrong with a request for more, given how the project stands.
pub fn request_faults(asked: &LimitRequestCreate, standing: &[Limit]) -> Vec<FieldError> {
    let mut faults: Vec<_> = text_fault("reason", Some(&asked.reason)).into_iter().collect();
    if asked.reason.trim().is_empty() {
        faults.push(fault("reason", "Say what you need it for."));
    }
    let now = standing.iter().find(|limit| limit.kind == asked.kind);
    let now = now.map_or(0, |limit| limit.limit.min(limit.account_limit));
    if asked.limit <= now {
        faults.push(fault("limit", format!("You may have {now} {} already.", asked.kind.things())));
    } else if asked.limit > i64::from(u32::MAX) {
        faults.push(fault("limit", format!("Ask for at most {}.", u32::MAX)));
    }
    faults
}

/// Says that a text is too long, or nothing.
pub fn text_fault(field: &str, text: Option<&str>) -> Option<FieldError> {
    let is_long = text.is_some_and(|text| text.trim().chars().count() > TEXT_MAX_CHARS);
    is_long.then(|| fault(field, format!("This has at most {TEXT_MAX_CHARS} characters.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(used: i64, account_used: i64) -> Limit {
        Limit { kind: QuotaKind::Servers, used, limit: 3, account_used, account_limit: 5 }
    }

    #[test]
    fn a_limit_is_passed_by_one_more() {
        assert_eq!(exceeded(&limit(3, 5)), None);
        assert!(
            exceeded(&limit(4, 5)).expect("too many").contains("This project may have at most 3 servers")
        );
        assert!(
            exceeded(&limit(3, 6)).expect("too many").contains("This account may have at most 5 servers")
        );
    }

    #[test]
    fn what_is_not_named_in_the_settings_has_its_usual_limit() {
        let limits: Limits = toml::from_str("servers = 7").expect("limits");
        let none = Limits::default();
        assert_eq!((limits.of_project(QuotaKind::Servers), none.of_project(QuotaKind::Servers)), (7, 100));
        assert_eq!(limits.of_account(QuotaKind::Servers, &none), 7);
        assert_eq!(none.of_account(QuotaKind::Servers, &limits), 28);
        assert!(toml::from_str::<Limits>("snails = 7").is_err());
    }

    #[test]
    fn a_request_asks_for_more_and_says_why() {
        let asked = |limit, reason: &str| {
            let create = LimitRequestCreate { kind: QuotaKind::Servers, limit, reason: reason.to_owned() };
            let standing = [super::tests::limit(3, 5)];
            request_faults(&create, &standing).into_iter().map(|fault| fault.name).collect::<Vec<_>>()
        };
        assert!(asked(4, "A cluster.").is_empty());
        assert_eq!(asked(3, " "), ["reason", "limit"]);
        assert_eq!(asked(i64::MAX, &"x".repeat(1001)), ["reason", "limit"]);
    }
}
