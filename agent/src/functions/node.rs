//! `node`, `run`, `certificate`.

use berth_model::ErrorCode;
use berth_model::agent::function::{certificate, node, run};
use berth_model::agent::{Nothing, RunList};

use super::Functions;
use crate::error::Refusal;

pub(super) fn tie(functions: &mut Functions) {
    functions.answer::<node::Get, _>(async |api, (), _| Ok(api.node.node()));
    functions.answer::<run::List, _>(async |api, (), _| Ok(RunList { runs: api.work.runs().list() }));
    functions.answer::<run::Get, _>(async |api, id, _| api.work.runs().get(id).ok_or_else(|| unknown(id)));
    functions
        .answer::<run::Cancel, _>(async |api, id, _| api.work.runs().cancel(id).ok_or_else(|| unknown(id)));
    functions.answer::<certificate::Request, _>(async |api, (), _| api.tls.request());
    functions.answer::<certificate::Put, _>(async |api, (), certificate| {
        api.tls.accept(certificate)?;
        Ok(Nothing {})
    });
}

fn unknown(id: berth_model::agent::RunId) -> Refusal {
    Refusal::new(ErrorCode::NotFound, format!("There is no run {id}, or it is no longer known."))
}
