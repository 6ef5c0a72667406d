//! What comes from the browser's air: the clock, randomness, storage, focus. The rest of the
//! app takes these as values.

use berth_model::Timestamp;
use leptos::prelude::*;
use wasm_bindgen::JsCast;

use crate::format::Here;

/// Now, by the browser's clock.
pub fn now() -> Timestamp {
    Timestamp::from_unix_ms(js_sys::Date::now() as i64).unwrap_or(Timestamp(time::OffsetDateTime::UNIX_EPOCH))
}

/// Now and where: what times are written against.
pub fn here() -> Here {
    let offset = js_sys::Date::new_0().get_timezone_offset();
    Here { now: now(), offset_minutes: -(offset as i32) }
}

/// A number from 0 to 1 that spreads retries.
pub fn jitter() -> f64 {
    js_sys::Math::random()
}

/// A random UUID. `crypto.randomUUID` exists on HTTPS only; this works everywhere.
pub fn uuid() -> String {
    let mut bytes = [0u8; 16];
    if let Ok(crypto) = window().crypto() {
        let _ = crypto.get_random_values_with_u8_array(&mut bytes);
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A value kept by the browser between visits; `None` also where storage is forbidden.
pub fn stored(key: &str) -> Option<String> {
    window().local_storage().ok()??.get_item(key).ok()?
}

/// Keeps a value between visits, or forgets it.
pub fn store(key: &str, value: Option<&str>) {
    if let Ok(Some(storage)) = window().local_storage() {
        let _ = match value {
            Some(value) => storage.set_item(key, value),
            None => storage.remove_item(key),
        };
    }
}

/// Sets or removes an attribute of `<html>`, which style sheets look at.
pub fn mark_page(name: &str, value: Option<&str>) {
    if let Some(root) = document().document_element() {
        let _ = match value {
            Some(value) => root.set_attribute(name, value),
            None => root.remove_attribute(name),
        };
    }
}

/// Moves the focus to the element with this id, and shows it.
pub fn focus(id: &str) {
    let Some(element) = document().get_element_by_id(id) else { return };
    // A group takes the focus through its first control.
    let inner = element.query_selector("input, textarea, select, button").ok().flatten();
    let target = if element.has_attribute("tabindex")
        || element.matches("input, textarea, select, button").unwrap_or(false)
    {
        Some(element)
    } else {
        inner
    };
    if let Some(target) = target.and_then(|t| t.dyn_into::<web_sys::HtmlElement>().ok()) {
        let _ = target.focus();
    }
}

/// Puts the focus on `main`, so that on a new page the keyboard goes on from its start.
pub fn begin_page() {
    let main = document().get_element_by_id("main").and_then(|el| el.dyn_into::<web_sys::HtmlElement>().ok());
    if let Some(main) = main {
        let options = web_sys::FocusOptions::new();
        options.set_prevent_scroll(true);
        let _ = main.focus_with_options(&options);
    }
}

/// Copies a text. Where the clipboard is closed (plain HTTP), through a hidden field.
pub fn copy(text: &str) {
    if window().is_secure_context() {
        let _ = window().navigator().clipboard().write_text(text);
        return;
    }
    let page = document();
    let Ok(field) = page.create_element("textarea") else { return };
    let Ok(field) = field.dyn_into::<web_sys::HtmlTextAreaElement>() else { return };
    field.set_value(text);
    field.set_class_name("vh");
    if page.body().is_some_and(|body| body.append_child(&field).is_ok()) {
        field.select();
        if let Ok(html) = page.dyn_into::<web_sys::HtmlDocument>() {
            let _ = html.exec_command("copy");
        }
        field.remove();
    }
}

/// The title of the page, as the tab shows it.
pub fn title(text: impl Fn() -> String + 'static) {
    Effect::new(move |_| document().set_title(&format!("{} · Berth", text())));
}

/// Single letters, outside inputs and dialogs: calls `run` when `letter` is pressed, as long as
/// the component lives.
pub fn on_key(letter: char, run: impl Fn() + 'static) {
    let handle = window_event_listener(leptos::ev::keydown, move |event| {
        let held = event.meta_key() || event.ctrl_key() || event.alt_key();
        let typing = event
            .target()
            .and_then(|target| target.dyn_into::<web_sys::Element>().ok())
            .is_some_and(|el| el.matches("input, textarea, select, [role=menu] *").unwrap_or(false));
        let dialog = document().query_selector("dialog[open]").ok().flatten().is_some();
        if held || typing || dialog || event.repeat() || event.default_prevented() {
            return;
        }
        if event.key().eq_ignore_ascii_case(letter.encode_utf8(&mut [0; 4])) {
            event.prevent_default();
            run();
        }
    });
    on_cleanup(move || handle.remove());
}
