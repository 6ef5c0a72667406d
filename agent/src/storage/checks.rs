//! Pools in the node's self-check.

use berth_model::agent::{NodeCheck, Pool as PoolInfo};

use super::Storage;
use crate::checks::check;

/// Of a pool this much may be promised before the operator hears of it, in percent of what it may promise.
const PROMISED_MAX_PERCENT: u128 = 90;

impl Storage {
    /// Each pool: does it answer, has it room, may it promise more?
    pub fn checks(&self) -> Vec<NodeCheck> {
        match self.pools() {
            Ok(pools) => pools.iter().flat_map(|pool| of_pool(pool, self.reserve.bytes())).collect(),
            Err(e) => vec![check("pools", true, Err(format!("The pools cannot be looked at: {e}.")))],
        }
    }
}

fn of_pool(pool: &PoolInfo, reserve: u64) -> [NodeCheck; 2] {
    let name = &pool.name;
    [
        check(&format!("pool {name}"), true, room(pool, reserve)),
        check(&format!("promises of pool {name}"), false, promises(pool)),
    ]
}

fn room(pool: &PoolInfo, reserve: u64) -> Result<String, String> {
    let (name, free) = (&pool.name, pool.free.as_mib());
    match &pool.problem {
        Some(problem) => Err(format!("The pool {name} does not answer: {problem}")),
        None if pool.free.bytes() < reserve => {
            Err(format!("The pool {name} is nearly full: {free} MiB are free."))
        }
        None => Ok(format!("The pool {name} has {free} MiB free of {} MiB.", pool.size.as_mib())),
    }
}

fn promises(pool: &PoolInfo) -> Result<String, String> {
    let (name, promised) = (&pool.name, pool.promised.as_mib());
    let Some(max) = pool.promise_max.filter(|_| pool.problem.is_none()) else {
        return Ok(format!("The pool {name} has promised {promised} MiB, and no limit is known."));
    };
    let sentence =
        format!("The pool {name} has promised {promised} MiB of the {} MiB that it may.", max.as_mib());
    let is_much = u128::from(pool.promised.bytes()) * 100 > u128::from(max.bytes()) * PROMISED_MAX_PERCENT;
    if is_much { Err(sentence) } else { Ok(sentence) }
}

#[cfg(test)]
mod tests {
    use berth_model::ByteSize;
    use berth_model::agent::{Name, PoolKind};

    use super::*;

    #[test]
    fn a_pool_that_is_silent_or_full_makes_the_node_unhealthy_and_many_promises_are_told() {
        let _proof = crate::proof::pure(&["node.check"]);
        let pool = |free: u64, promised: u64, problem: Option<&str>| PoolInfo {
            name: Name::new("ceph").unwrap(),
            kind: PoolKind::CephRbd,
            size: ByteSize::gib(100),
            free: ByteSize::gib(free),
            allocated: ByteSize::gib(100 - free),
            promised: ByteSize::gib(promised),
            promise_max: Some(ByteSize::gib(1000)),
            volumes: 0,
            problem: problem.map(str::to_owned),
        };
        let fine = |pool: PoolInfo| of_pool(&pool, ByteSize::gib(1).bytes()).map(|check| check.ok);
        assert_eq!(fine(pool(50, 900, None)), [true, true]);
        assert_eq!(fine(pool(0, 900, None)), [false, true]);
        assert_eq!(fine(pool(50, 901, None)), [true, false]);
        assert_eq!(fine(pool(50, 0, Some("It is down."))), [false, true]);
        let [room, promises] = of_pool(&pool(0, 0, None), 1);
        assert!(room.needed && !promises.needed && room.sentence.contains("nearly full"), "{room:?}");
    }
}
