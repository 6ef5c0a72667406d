//! `backup`.

use berth_model::FieldError;
use berth_model::agent::function::backup;
use berth_model::agent::{BackupCreate, BackupKeep, BackupKey, BackupPrune, BackupStore};

use super::Functions;
use crate::backups::{self, INCREMENTALS_MAX, seal, store};

pub(super) fn tie(functions: &mut Functions) {
    functions.change::<backup::Create>(create_faults, |api, cx, (vm, name), request| {
        backups::create(&**api.work.hypervisor(), cx, *vm, name, &request)
    });
    functions.read::<backup::List>(|_, (), request| {
        let faults = store::faults(&request.store);
        if faults.is_empty() { backups::list(&request) } else { Err(crate::error::Refusal::fields(faults)) }
    });
    functions.change::<backup::Verify>(
        |request| keyed(&request.store, &request.key),
        |_, cx, name, request| backups::verify(cx, name, &request),
    );
    functions.change::<backup::Restore>(
        |request| keyed(&request.store, &request.key),
        |api, cx, vm, request| backups::restore(&**api.work.hypervisor(), cx, *vm, &request),
    );
    functions.change::<backup::Prune>(prune_faults, |_, cx, vm, request| backups::prune(*vm, &request, cx));
    functions.change::<backup::Delete>(
        |request| store::faults(&request.store),
        |_, cx, (vm, name), request| backups::delete(*vm, name, &request, cx),
    );
}

fn create_faults(request: &BackupCreate) -> Vec<FieldError> {
    let mut faults = keyed(&request.store, &request.key);
    if request.incrementals_max.is_some_and(|most| most > INCREMENTALS_MAX) {
        let rule = format!("At most {INCREMENTALS_MAX} backups build on a full one.");
        faults.push(FieldError { name: "incrementals_max".to_owned(), messages: vec![rule] });
    }
    faults
}

fn prune_faults(request: &BackupPrune) -> Vec<FieldError> {
    let mut faults = store::faults(&request.store);
    if request.keep == BackupKeep::default() {
        let rule = "These rules keep nothing; name how many backups stay.".to_owned();
        faults.push(FieldError { name: "keep".to_owned(), messages: vec![rule] });
    }
    faults
}

fn keyed(store: &BackupStore, key: &BackupKey) -> Vec<FieldError> {
    let mut faults = store::faults(store);
    if seal::AccountKey::parse(&key.0).is_none() {
        faults.push(FieldError { name: "key".to_owned(), messages: vec![seal::KEY_RULE.to_owned()] });
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_with_its_field() {
        let _proof = crate::proof::pure(&[
            "backup.create",
            "backup.list",
            "backup.verify",
            "backup.restore",
            "backup.delete",
        ]);
        let store = BackupStore::Directory { path: "here".to_owned() };
        let named = |faults: Vec<FieldError>| faults.into_iter().map(|f| f.name).collect::<Vec<_>>();
        let key = BackupKey("ab".to_owned());
        let create =
            BackupCreate { store: store.clone(), key: key.clone(), full: false, incrementals_max: Some(366) };
        assert_eq!(named(create_faults(&create)), ["store.path", "key", "incrementals_max"]);
        assert_eq!(named(keyed(&store, &key)), ["store.path", "key"]);
        let prune = BackupPrune { store, keep: BackupKeep::default(), dry_run: true };
        assert_eq!(named(prune_faults(&prune)), ["store.path", "keep"]);
        assert!(!format!("{create:?}").contains("\"ab\""));
    }
}
