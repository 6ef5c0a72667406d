//! The SSH keys of an order: chosen, or added in place.

use berth_model::error::ErrorCode;
use berth_model::ssh_key::{SshKey, SshKeyCreate};
use leptos::prelude::*;

use super::server_new_choices::Section;
use super::server_new_order::Order;
use crate::api::{Api, Fault};
use crate::components::button::{PRIMARY, QUIET, btn};
use crate::components::field::{Field, FieldError, Hint, Kind};
use crate::components::panel::{Body, Plain};
use crate::components::pick::{Pick, PickAdd, Picks};
use crate::{browser, forms};

stylance::import_style!(css, "server_new_keys.module.css");

/// The keys of the project, and one more.
#[component]
pub fn Keys(order: Order) -> impl IntoView {
    let adding = RwSignal::new(false);
    let card = move |key: SshKey| {
        let id = key.id;
        view! {
            <Pick
                group="ssh_keys"
                many=true
                value=id.to_string()
                chosen=Signal::derive(move || order.chosen_keys.with(|keys| keys.contains(&id)))
                on_choose=Callback::new(move |on: bool| {
                    order.mend("ssh_keys");
                    order
                        .chosen_keys
                        .update(|keys| {
                            if on { keys.insert(id) } else { keys.remove(&id) };
                        });
                })
                title=key.name
                text=key.fingerprint
            />
        }
    };
    let none = move || order.chosen_keys.with(|keys| keys.is_empty());
    view! {
        <Section id="ssh_keys" title="SSH keys" order=order>
            <Picks wide=true>
                <For each=move || order.keys.get() key=|key| key.id children=card />
                <PickAdd label="Add a key" open=adding on_press=Callback::new(move |()| adding.update(|on| *on = !*on)) />
            </Picks>
            <Show when=move || adding.get()>
                <AddKey order=order open=adding />
            </Show>
            <p class=css::note hidden=move || !none()>
                <Hint>"Without a key, a root password is made and shown once, right after the order."</Hint>
            </p>
        </Section>
    }
}

#[component]
fn AddKey(order: Order, open: RwSignal<bool>) -> impl IntoView {
    let api = expect_context::<Api>();
    let (name, public_key) = (RwSignal::new(String::new()), RwSignal::new(String::new()));
    let named = RwSignal::new(false);
    let wrong = RwSignal::new(Vec::<(String, String)>::new());
    let fault = RwSignal::new(None::<Fault>);
    let busy = RwSignal::new(false);
    // A key brings its name along.
    Effect::new(move |_| {
        let comment = public_key.with(|key| forms::key_comment(key).map(str::to_owned));
        if let Some(comment) = comment
            && (!named.get_untracked() || name.with_untracked(String::is_empty))
        {
            named.set(true);
            name.set(comment);
        }
    });
    let error = move |field: &'static str| {
        Signal::derive(move || {
            wrong.with(|w| w.iter().find(|(name, _)| name == field).map(|(_, text)| text.clone()))
        })
    };
    let add = move |_| {
        let body = SshKeyCreate {
            name: name.get_untracked().trim().to_owned(),
            public_key: public_key.get_untracked().trim().to_owned(),
            ..SshKeyCreate::default()
        };
        let mut missing = Vec::new();
        if body.public_key.is_empty() {
            missing.push(("public_key".to_owned(), "Paste a public key.".to_owned()));
        }
        if body.name.is_empty() {
            missing.push(("name".to_owned(), "Enter a name.".to_owned()));
        }
        let complete = missing.is_empty();
        wrong.set(missing);
        fault.set(None);
        if !complete || busy.get_untracked() {
            return;
        }
        busy.set(true);
        wasm_bindgen_futures::spawn_local(async move {
            let answer = api.ssh_key_create(&body).await;
            if busy.try_set(false).is_some() {
                return;
            }
            match answer {
                Ok(key) => {
                    order.mend("ssh_keys");
                    order.chosen_keys.update(|keys| {
                        keys.insert(key.id);
                    });
                    order.keys.update(|keys| keys.push(key));
                    open.set(false);
                    browser::focus("ssh_keys");
                }
                Err(error) => {
                    let mut fields = error.fields();
                    if fields.is_empty() && error.is(ErrorCode::UniquenessError) {
                        fields.push(("public_key".to_owned(), error.message()));
                    }
                    let plain = fields.is_empty();
                    wrong.set(fields);
                    fault.set(plain.then_some(error));
                }
            }
        });
    };
    view! {
        <div class=css::add>
            <Plain label="Add a key">
                <Body>
                    <div class=format!("stack {}", css::fields)>
                        <Field
                            id="key-public"
                            label="Public key"
                            value=public_key
                            error=error("public_key")
                            kind=Kind::Lines
                            placeholder="ssh-ed25519 AAAA… you@laptop"
                            hint="One line, as in ~/.ssh/id_ed25519.pub. Never the private key."
                        />
                        <Field id="key-name" label="Name of the key" value=name error=error("name") narrow=true />
                        <FieldError
                            id="key-fault"
                            error=Signal::derive(move || fault.with(|f| f.as_ref().map(Fault::message)))
                        />
                        <div class="row">
                            <button
                                type="button"
                                class=btn(&[PRIMARY])
                                aria-busy=move || busy.get().then_some("true")
                                on:click=add
                            >
                                "Add key"
                            </button>
                            <button type="button" class=btn(&[QUIET]) on:click=move |_| open.set(false)>
                                "Cancel"
                            </button>
                        </div>
                    </div>
                </Body>
            </Plain>
        </div>
    }
}
