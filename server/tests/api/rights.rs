//! Who may do what: every operation of the API is tried as a stranger, as somebody else and as the
//! right one. An operation that is not in [`table`] fails the test.

mod table;
mod things;
mod tries;

use std::collections::BTreeSet;

use berth_server::{accounts, clock, openapi};
use http::Method;

use self::table::{About, Case, For, table};
use self::things::{Things, things};
use self::tries::People;
use crate::support::Berth;

/// The operations of the document: name, path template, method.
fn operations() -> Vec<(String, String, Method)> {
    let document = serde_json::to_value(openapi::document()).unwrap();
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            operations.push((operation["operationId"].as_str().unwrap().to_owned(), path.clone(), method));
        }
    }
    operations
}

/// Does the path fit the template: `/v1/servers/7` and `/v1/servers/{id}`?
fn fits(path: &str, template: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let (path, template): (Vec<_>, Vec<_>) = (path.split('/').collect(), template.split('/').collect());
    path.len() == template.len()
        && path.iter().zip(template).all(|(is, wanted)| wanted.starts_with('{') || *is == wanted)
}

#[test]
fn every_operation_has_a_case() {
    let table = table(&Things::default());
    let names: BTreeSet<_> = table.iter().map(|case| case.operation.to_owned()).collect();
    let operations = operations();
    let offered: BTreeSet<_> = operations.iter().map(|(name, ..)| name.clone()).collect();
    let missing: Vec<_> = offered.difference(&names).collect();
    assert!(
        missing.is_empty(),
        "add these operations to the table in tests/api/rights/table.rs: {missing:?}"
    );
    let gone: Vec<_> = names.difference(&offered).collect();
    assert!(
        gone.is_empty(),
        "these are in the table in tests/api/rights/table.rs, but not in the API: {gone:?}"
    );
    assert_eq!(names.len(), table.len(), "an operation stands twice in the table");
    for case in &table {
        let (_, template, _) = operations.iter().find(|(name, ..)| *name == case.operation).unwrap();
        assert!(fits(&case.path, template), "{}: {} is not {template}", case.operation, case.path);
        let names_one = template.contains('{');
        let of_project = matches!(case.of, For::Project | For::ProjectBySession);
        assert!(
            !of_project || names_one == (case.about == About::One) || case.about == About::Shared,
            "{}: a path that names one thing is `owned`, or `shared` if it is the same for everybody; others are `case`",
            case.operation
        );
    }
}

#[tokio::test]
async fn every_operation_admits_the_right_ones_and_nobody_else() {
    let berth = Berth::without_workers().await;
    let people = People::new(&berth).await;
    let table = table(&things(&berth, &people.right).await);
    let operations = operations();
    let method_of = |case: &Case| {
        let found = operations.iter().find(|(name, ..)| *name == case.operation);
        found
            .map(|(.., method)| method.clone())
            .unwrap_or_else(|| panic!("{} is not in the API", case.operation))
    };
    // First everybody who must be refused, so that nothing they could have broken is gone already.
    for case in &table {
        case.wrong_ones(&method_of(case), &people).await;
    }
    let suspend = |reason| {
        accounts::cli::account_suspend(&berth.world().db, people.right.email(), reason, clock::now())
    };
    suspend(Some("The invoice of May is not paid.")).await.unwrap();
    for case in &table {
        case.suspended_ones(&method_of(case), &people).await;
    }
    suspend(None).await.unwrap();
    for case in &table {
        case.right_ones(&method_of(case), &people).await;
    }
}
