//! What tests throw at everything that reads: specs with wild texts, requests made from their schemas, and good
//! texts that were mangled.

use std::collections::BTreeMap;

use berth_model::agent::{Nic, NicAddress, VmImage, VmSeed, VmSpec, VolumeAttachment, WantedPower};
use berth_model::{ByteSize, VolumeId};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Specs that the agent takes.
pub fn specs() -> impl Strategy<Value = VmSpec> {
    let mac = vec(any::<u8>(), 5)
        .prop_map(|b| format!("52:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2], b[3], b[4]));
    let v4 = (any::<[u8; 4]>(), 8_u8..=32, option::of(any::<[u8; 4]>())).prop_map(|(ip, prefix, gateway)| {
        NicAddress { ip: ip.into(), prefix, gateway: gateway.map(Into::into) }
    });
    let v6 =
        (any::<[u8; 16]>(), 8_u8..=128, option::of(any::<[u8; 16]>())).prop_map(|(ip, prefix, gateway)| {
            NicAddress { ip: ip.into(), prefix, gateway: gateway.map(Into::into) }
        });
    let nic = (mac, vec(prop_oneof![v4, v6], 0..4)).prop_map(|(mac, addresses)| Nic {
        mac,
        addresses,
        ..Nic::default()
    });
    let servers =
        vec(prop_oneof![any::<[u8; 4]>().prop_map(Into::into), any::<[u8; 16]>().prop_map(Into::into)], 0..3);
    let seed = (
        "[a-z][a-z0-9-]{0,20}[a-z0-9](\\.[a-z]{1,8})?",
        vec("(ssh-rsa|ssh-ed25519) [A-Za-z0-9+/]{8,60}={0,2}( [^\\pC]{0,30})?", 0..4),
        option::of("\\$6\\$[a-zA-Z0-9./]{1,16}\\$[a-zA-Z0-9./]{1,86}"),
        option::of("(?s).{0,200}"),
        servers,
    );
    let seed = seed.prop_map(|(hostname, ssh_keys, root_password_hash, user_data, name_servers)| VmSeed {
        hostname,
        ssh_keys,
        root_password_hash,
        user_data,
        mounts: Vec::new(),
        name_servers,
    });
    let volumes = vec((1_i64..1000, any::<bool>()), 0..3).prop_map(|all| {
        all.into_iter().map(|(id, read_only)| VolumeAttachment { volume: VolumeId(id), read_only }).collect()
    });
    let spec = (seed, vec(nic, 0..4), volumes, option::of("[^\\pC]{1,40}"), 1_u32..8, 64_u64..4096);
    let spec = spec.prop_map(|(seed, nics, volumes, title, vcpus, memory)| VmSpec {
        vcpus,
        memory: ByteSize::mib(memory),
        disk: ByteSize::gib(1),
        image: VmImage { sha256: "0123456789abcdef".repeat(4) },
        seed,
        nics,
        volumes,
        title,
        power: WantedPower::On,
        ..VmSpec::default()
    });
    spec.prop_filter("the agent takes it", |spec| crate::spec::faults(spec).is_empty())
}

/// A good text, with parts of it doubled, gone, or replaced.
pub fn mangled(good: Vec<String>) -> impl Strategy<Value = String> {
    let change =
        (any::<prop::sample::Index>(), 0_usize..12, "\\PC{0,4}|[<>&;'\"{}\\[\\],:0-9-]{0,3}", any::<bool>());
    (prop::sample::select(good), vec(change, 1..6)).prop_map(|(mut text, changes)| {
        for (at, length, new, double) in changes {
            let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let n = at.index(bounds.len());
            let (from, to) = (bounds[n], bounds[(n + length).min(bounds.len() - 1)]);
            let part = if double { text[from..to].repeat(2) } else { new };
            text.replace_range(from..to, &part);
        }
        text
    })
}

/// A value as a schema describes it, with words that need not make sense.
pub fn value_of(
    schema: &Value,
    schemas: &BTreeMap<String, Value>,
    depth: u32,
    seed: &mut impl FnMut() -> u64,
) -> Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return schemas.get(name).map_or(Value::Null, |schema| value_of(schema, schemas, depth, seed));
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(choices) = schema[key].as_array() {
            let choice = &choices[seed() as usize % choices.len()];
            return value_of(choice, schemas, depth, seed);
        }
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let mut all = Map::new();
        for part in parts {
            if let Value::Object(part) = value_of(part, schemas, depth, seed) {
                all.extend(part);
            }
        }
        return Value::Object(all);
    }
    if let Some(words) = schema["enum"].as_array() {
        return words[seed() as usize % words.len()].clone();
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds[seed() as usize % kinds.len()].as_str(),
        kind => kind.as_str(),
    };
    match kind {
        Some("string") => {
            ["", "a", "7", "52:54:00:00:00:01", "10.0.0.1", "daily-1", "é\u{1}<&>", "https://a/b"]
                [seed() as usize % 8]
                .into()
        }
        Some("integer") => [json!(0), json!(1), json!(64), json!(-1), json!(u64::MAX), json!(i64::MIN)]
            [seed() as usize % 6]
            .clone(),
        Some("number") => json!(0.5),
        Some("boolean") => json!(seed().is_multiple_of(2)),
        Some("array") if depth > 6 => json!([]),
        Some("array") => {
            (0..seed() % 3).map(|_| value_of(&schema["items"], schemas, depth + 1, seed)).collect()
        }
        Some("object") => {
            let required: Vec<&str> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let mut object = Map::new();
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                if required.contains(&name.as_str()) || seed().is_multiple_of(2) {
                    object.insert(name.clone(), value_of(field, schemas, depth + 1, seed));
                }
            }
            Value::Object(object)
        }
        _ => Value::Null,
    }
}

/// Numbers for [`value_of`], the same ones each time: what fails once fails again (Marsaglia's xorshift).
pub fn numbers(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 11
    }
}
