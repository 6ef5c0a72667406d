//! `guest`.

use berth_model::agent::function::guest;
use berth_model::agent::{GuestFreeze, GuestHostname, GuestPassword, GuestSshKeys, Nothing, VmSpec};
use berth_model::{FieldError, VmId};

use super::sizes::change_spec;
use super::{Functions, no_faults};
use crate::api::Api;
use crate::guest::{FREEZE_MAX_S, Guest, USER_RULE, is_user};
use crate::spec;

pub(super) fn tie(functions: &mut Functions) {
    functions.read::<guest::Info>(|api, id, _| Ok(of(api, *id).info()?));
    functions.change::<guest::SetPassword>(password_faults, |api, _, id, wanted| {
        of(api, *id).set_password(&wanted)?;
        Ok(Nothing {})
    });
    functions.change::<guest::SetSshKeys>(ssh_keys_faults, |api, _, id, wanted| {
        of(api, *id).set_ssh_keys(&wanted)?;
        Ok(Nothing {})
    });
    functions.change::<guest::SetHostname>(hostname_faults, |api, _, id, wanted| {
        // The guest first: if it does not answer, nothing has changed.
        let set = of(api, *id).set_hostname(&wanted.hostname)?;
        change_spec(api, *id, |mut spec: VmSpec| {
            spec.seed.hostname = wanted.hostname;
            spec
        })?;
        Ok(set)
    });
    functions.change::<guest::Freeze>(freeze_faults, |api, _, id, wanted| {
        Ok(api.freezes.freeze(*id, wanted.limit_s)?)
    });
    functions.change::<guest::Thaw>(no_faults, |api, _, id, _| Ok(api.freezes.thaw(*id)?));
    functions.change::<guest::Trim>(no_faults, |api, _, id, _| Ok(of(api, *id).trim()?));
    functions.change::<guest::SyncTime>(no_faults, |api, _, id, _| Ok(of(api, *id).sync_time()?));
}

fn of(api: &Api, id: VmId) -> Guest<'_> {
    Guest::of(&**api.work.hypervisor(), id)
}

fn fault(name: &str, rule: &str) -> FieldError {
    FieldError { name: name.to_owned(), messages: vec![rule.to_owned()] }
}

fn user_fault(user: &str) -> Option<FieldError> {
    (!is_user(user)).then(|| fault("user", USER_RULE))
}

fn password_faults(wanted: &GuestPassword) -> Vec<FieldError> {
    let hash = !spec::is_password_hash(&wanted.password_hash);
    let hash = hash.then(|| fault("password_hash", spec::PASSWORD_HASH_RULE));
    user_fault(&wanted.user).into_iter().chain(hash).collect()
}

fn ssh_keys_faults(wanted: &GuestSshKeys) -> Vec<FieldError> {
    user_fault(&wanted.user).into_iter().chain(spec::ssh_keys_faults(&wanted.ssh_keys)).collect()
}

fn hostname_faults(wanted: &GuestHostname) -> Vec<FieldError> {
    let wrong = !spec::is_hostname(&wanted.hostname);
    wrong.then(|| fault("hostname", spec::HOSTNAME_RULE)).into_iter().collect()
}

fn freeze_faults(wanted: &GuestFreeze) -> Vec<FieldError> {
    let wrong = !(1..=FREEZE_MAX_S).contains(&wanted.limit_s);
    wrong.then(|| fault("limit_s", "File systems are frozen for 1 to 600 seconds.")).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_must_not_be_asked_is_refused_with_the_field() {
        let _proof = crate::proof::pure(&[
            "guest.set_password",
            "guest.set_ssh_keys",
            "guest.set_hostname",
            "guest.freeze",
        ]);
        let names = |faults: Vec<FieldError>| faults.into_iter().map(|f| f.name).collect::<Vec<_>>();
        let password =
            |user: &str, hash: &str| GuestPassword { user: user.into(), password_hash: hash.into() };
        assert_eq!(names(password_faults(&password("root", "$6$salt$hash"))), [""; 0]);
        assert_eq!(names(password_faults(&password("a b", "secret"))), ["user", "password_hash"]);
        let keys = |key: &str| GuestSshKeys { user: "root".into(), ssh_keys: vec![key.into()] };
        assert_eq!(names(ssh_keys_faults(&keys("ssh-ed25519 AAAA a@b"))), [""; 0]);
        assert_eq!(names(ssh_keys_faults(&keys("a\nb"))), ["ssh_keys[0]"]);
        assert_eq!(names(hostname_faults(&GuestHostname { hostname: "a b".into() })), ["hostname"]);
        for limit_s in [0, 601] {
            assert_eq!(names(freeze_faults(&GuestFreeze { limit_s })), ["limit_s"]);
        }
        assert_eq!(names(freeze_faults(&GuestFreeze::default())), [""; 0]);
    }

    #[test]
    fn a_password_is_not_shown_where_a_request_is_printed() {
        let wanted = GuestPassword { user: "root".into(), password_hash: "$6$salt$hash".into() };
        assert!(!format!("{wanted:?}").contains("hash\":") && !format!("{wanted:?}").contains("$6$"));
    }
}
