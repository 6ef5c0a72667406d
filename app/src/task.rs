//! Work that ends with what asked for it.

use std::future::Future;

use futures_util::future::{AbortHandle, Abortable};
use leptos::prelude::on_cleanup;
use wasm_bindgen_futures::spawn_local;

/// Runs `work` until it is done or the reactive owner around the call is cleaned up, which drops
/// it, and with it the request it waits for. In an effect: until the effect runs again.
pub fn scoped(work: impl Future<Output = ()> + 'static) {
    let (handle, registration) = AbortHandle::new_pair();
    on_cleanup(move || handle.abort());
    spawn_local(async move {
        let _ = Abortable::new(work, registration).await;
    });
}
