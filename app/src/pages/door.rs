//! The door: signing in and signing up.

use berth_model::error::ErrorCode;
use berth_model::people::{PASSWORD_MIN_CHARS, Session, SignIn, SignUp};
use leptos::prelude::*;

use crate::api::{Api, Fault};
use crate::browser;
use crate::components::banner::{Banner, Tone};
use crate::components::button::{BIG, PRIMARY, WIDE, btn};
use crate::components::field::{Field, Kind};
use crate::components::icon::icon;
use crate::forms;
use crate::session::Door;

use crate::route::{self, Way};

stylance::import_style!(css, "door.module.css");

/// `/sign-in`
#[component]
pub fn SignInPage() -> impl IntoView {
    browser::title(|| "Sign in".to_owned());
    let api = expect_context::<Api>();
    let (email, password) = (RwSignal::new(String::new()), RwSignal::new(String::new()));
    let form = Form::new();
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let body =
            SignIn { email: email.get_untracked().trim().to_owned(), password: password.get_untracked() };
        let missing = [
            ("email", body.email.is_empty(), "Enter your email."),
            ("password", body.password.is_empty(), "Enter your password."),
        ];
        if form.missing(&missing) {
            form.run(async move { api.session_create(&body).await });
        }
    };
    view! {
        <Walls>
            <form class=css::form on:submit=submit novalidate=true>
                <h1>"Sign in"</h1>
                <Refusal form=form />
                <Field
                    id="email"
                    label="Email"
                    value=email
                    error=form.error("email")
                    kind=Kind::Email
                    autocomplete="username"
                    tall=true
                    autofocus=true
                />
                <Field
                    id="password"
                    label="Password"
                    value=password
                    error=form.error("password")
                    kind=Kind::Password
                    autocomplete="current-password"
                    tall=true
                />
                <Submit form=form label="Sign in" />
                <p class="t-sm t-2">"New here? " <a href="/sign-up">"Create an account"</a></p>
            </form>
        </Walls>
    }
}

/// `/sign-up`
#[component]
pub fn SignUpPage() -> impl IntoView {
    browser::title(|| "Create an account".to_owned());
    let api = expect_context::<Api>();
    let (name, email, password) =
        (RwSignal::new(String::new()), RwSignal::new(String::new()), RwSignal::new(String::new()));
    let form = Form::new();
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let body = SignUp {
            email: email.get_untracked().trim().to_owned(),
            name: name.get_untracked().trim().to_owned(),
            password: password.get_untracked(),
        };
        let short = body.password.chars().count() < PASSWORD_MIN_CHARS;
        let missing = [
            ("name", body.name.is_empty(), "Enter your name."),
            ("email", body.email.is_empty(), "Enter your email."),
            ("password", short, "A password has at least 10 characters."),
        ];
        if form.missing(&missing) {
            form.run(async move { api.user_create(&body).await });
        }
    };
    view! {
        <Walls>
            <form class=css::form on:submit=submit novalidate=true>
                <h1>"Create an account"</h1>
                <Refusal form=form />
                <Field
                    id="name"
                    label="Name"
                    value=name
                    error=form.error("name")
                    autocomplete="name"
                    tall=true
                    autofocus=true
                />
                <Field
                    id="email"
                    label="Email"
                    value=email
                    error=form.error("email")
                    kind=Kind::Email
                    autocomplete="username"
                    tall=true
                />
                <Field
                    id="password"
                    label="Password"
                    value=password
                    error=form.error("password")
                    kind=Kind::Password
                    autocomplete="new-password"
                    hint="At least 10 characters. Length helps more than symbols."
                    tall=true
                />
                <Submit form=form label="Create account" />
                <p class="t-sm t-2">"You have one? " <a href="/sign-in">"Sign in"</a></p>
            </form>
        </Walls>
    }
}

/// What a form of the door knows: whether it is being sent, and what was wrong.
#[derive(Clone, Copy)]
struct Form {
    busy: RwSignal<bool>,
    fault: RwSignal<Option<Fault>>,
    fields: RwSignal<Vec<(String, String)>>,
}

impl Form {
    fn new() -> Self {
        Self { busy: RwSignal::new(false), fault: RwSignal::new(None), fields: RwSignal::new(Vec::new()) }
    }

    fn error(self, name: &'static str) -> Signal<Option<String>> {
        Signal::derive(move || {
            self.fields
                .with(|fields| fields.iter().find(|(field, _)| field == name).map(|(_, text)| text.clone()))
        })
    }

    /// Takes the fields that are missing, and says whether the form can be sent.
    fn missing(self, rules: &[(&'static str, bool, &'static str)]) -> bool {
        let wrong: Vec<_> =
            rules.iter().filter(|rule| rule.1).map(|rule| (rule.0.to_owned(), rule.2.to_owned())).collect();
        let first = wrong.first().map(|(name, _)| name.clone());
        self.fault.set(None);
        self.fields.set(wrong);
        if let Some(name) = &first {
            browser::focus(name);
        }
        first.is_none()
    }

    /// Sends it, and goes in.
    fn run(self, work: impl Future<Output = Result<Session, Fault>> + 'static) {
        if self.busy.get_untracked() {
            return;
        }
        self.busy.set(true);
        let door = expect_context::<Door>();
        let way = expect_context::<Way>();
        let to = forms::safe_path(route::query("to"));
        wasm_bindgen_futures::spawn_local(async move {
            match work.await {
                Ok(session) => {
                    door.enter(session);
                    way.replace(&to);
                }
                Err(fault) => {
                    let _ = self.busy.try_set(false);
                    let fields = fault.fields();
                    let first = fields.first().map(|(name, _)| name.clone());
                    let _ = self.fields.try_set(fields);
                    let _ = self.fault.try_set(Some(fault));
                    request_animation_frame(move || browser::focus(first.as_deref().unwrap_or("refusal")));
                }
            }
        });
    }
}

/// Why it was refused, when no single field is to blame.
#[component]
fn Refusal(form: Form) -> impl IntoView {
    move || {
        let fault = form.fault.get().filter(|fault| fault.fields().is_empty())?;
        let text = if fault.is(ErrorCode::Unauthorized) {
            "That email and password don’t match.".to_owned()
        } else {
            fault.message()
        };
        Some(view! {
            <Banner tone=Tone::Bad id="refusal">
                <b>{text}</b>
            </Banner>
        })
    }
}

#[component]
fn Submit(form: Form, label: &'static str) -> impl IntoView {
    view! {
        <button
            type="submit"
            class=btn(&[PRIMARY, WIDE, BIG])
            aria-busy=move || form.busy.get().then_some("true")
        >
            {label}
        </button>
    }
}

/// What both have around them. The sea chart is a file of its own, so that whoever is inside
/// never loads it.
#[component]
fn Walls(children: Children) -> impl IntoView {
    // Whoever is inside has no business at the door.
    let (door, way) = (expect_context::<Door>(), expect_context::<Way>());
    Effect::new(move |_| {
        if door.is_in().get_untracked() {
            way.replace("/servers");
        }
    });
    view! {
        <div class=css::door>
            <main class=css::inner id="main">
                <span class=format!("brand {}", css::brand)>
                    {icon("i-mark")} <span>"Berth"</span>
                </span>
                {children()}
                <span></span>
            </main>
            <svg class=css::sea viewBox="0 0 760 940" preserveAspectRatio="xMidYMid slice" aria-hidden="true">
                <use class=css::lines href="/sea.svg#lines"></use>
                <use class=css::depths href="/sea.svg#depths"></use>
            </svg>
        </div>
    }
}
