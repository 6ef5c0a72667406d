//! `moving`.

use berth_model::agent::Nothing;
use berth_model::agent::function::moving;

use super::{Functions, no_faults};
use crate::{clock, moving as way};

pub(super) fn tie(functions: &mut Functions) {
    functions.change::<moving::Prepare>(way::room_faults, |api, _, id, asked| {
        api.admit(*id)?;
        let _image = api.images.hold(&asked.spec.image.sha256)?;
        let until = clock::now().plus_seconds(asked.keep_s.into());
        let room = api.work.hypervisor().move_prepare(*id, &asked, until)?;
        api.moves.await_vm(*id, room, until)
    });
    functions.change::<moving::Send>(way::faults, |api, cx, id, order| {
        let way = api.moves.way(*id, &order)?;
        Ok(api.work.hypervisor().move_send(*id, &order, &way, cx)?)
    });
    functions.change::<moving::Finish>(no_faults, |api, _, id, _| {
        let arrived = api.work.hypervisor().move_finish(*id)?;
        api.moves.forget(*id);
        Ok(arrived)
    });
    functions.change::<moving::Abort>(no_faults, |api, _, id, _| {
        api.work.hypervisor().move_abort(*id)?;
        api.moves.forget(*id);
        Ok(Nothing {})
    });
}
