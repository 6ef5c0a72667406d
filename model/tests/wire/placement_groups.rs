//! Placement groups.

use berth_model::placement_group::*;
use berth_model::*;

use crate::golden;
use crate::samples::{at, labels, meta};

#[test]
fn placement_groups_keep_their_wire_form() {
    let group = PlacementGroup {
        id: PlacementGroupId(3),
        name: "web".into(),
        kind: PlacementGroupType::Spread,
        servers: vec![ServerId(7)],
        labels: labels(),
        created: at("2026-11-20T02:14:00Z"),
    };
    golden("placement_group", &PlacementGroupCreated { placement_group: group.clone(), action: None });
    golden("placement_group_list", &PlacementGroupList { placement_groups: vec![group], meta: meta() });
    golden(
        "placement_group_create",
        &PlacementGroupCreate {
            name: "web".into(),
            kind: PlacementGroupType::Spread,
            labels: Some(labels()),
        },
    );
    golden("add_to_placement_group", &AddToPlacementGroup { placement_group: PlacementGroupId(3) });
}
