//! An order of a server: what is chosen so far, what is wrong with it, and how it is read.

use std::collections::BTreeSet;

use berth_model::SshKeyId;
use berth_model::image::{Image, ImageKind, ImageStatus};
use berth_model::location::Location;
use berth_model::name::server_name_fault;
use berth_model::server::{NameOrId, ServerCreate, USER_DATA_MAX_BYTES};
use berth_model::server_type::{CpuKind, ServerType};
use berth_model::ssh_key::SshKey;
use leptos::prelude::*;

use crate::api::{Api, Fault, ServerQuery};
use crate::forms;
use crate::live::Live;
use crate::prices::Prices;

/// What can be chosen from.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Places with nodes.
    pub locations: Vec<Location>,
    /// Systems.
    pub images: Vec<Image>,
    /// Shapes, smallest first.
    pub types: Vec<ServerType>,
}

/// What is chosen so far, and what is wrong with it.
#[derive(Clone, Copy)]
pub struct Order {
    /// What can be chosen from, once it is known.
    pub offer: RwSignal<Option<Offer>>,
    /// Its name.
    pub location: RwSignal<String>,
    /// Its name.
    pub image: RwSignal<String>,
    /// Name of the server type.
    pub kind: RwSignal<String>,
    /// Which types are shown.
    pub cpu: RwSignal<CpuKind>,
    /// The host name.
    pub name: RwSignal<String>,
    /// Until the name is typed, it follows the image.
    pub named: RwSignal<bool>,
    /// As typed.
    pub labels: RwSignal<String>,
    /// As typed.
    pub user_data: RwSignal<String>,
    /// The project's keys.
    pub keys: RwSignal<Vec<SshKey>>,
    /// Those that are put on the server.
    pub chosen_keys: RwSignal<BTreeSet<SshKeyId>>,
    /// The fields that are wrong, as the API names them.
    pub wrong: RwSignal<Vec<(String, String)>>,
    /// Is it being sent?
    pub busy: RwSignal<bool>,
    /// Why it was refused as a whole.
    pub fault: RwSignal<Option<Fault>>,
}

impl Order {
    /// Nothing chosen.
    pub fn new() -> Self {
        Self {
            offer: RwSignal::new(None),
            location: RwSignal::default(),
            image: RwSignal::default(),
            kind: RwSignal::default(),
            cpu: RwSignal::new(CpuKind::Shared),
            name: RwSignal::default(),
            named: RwSignal::new(false),
            labels: RwSignal::default(),
            user_data: RwSignal::default(),
            keys: RwSignal::default(),
            chosen_keys: RwSignal::default(),
            wrong: RwSignal::default(),
            busy: RwSignal::new(false),
            fault: RwSignal::new(None),
        }
    }

    /// What is wrong with a field or a part of it.
    pub fn error(self, field: &'static str) -> Signal<Option<String>> {
        Signal::derive(move || {
            self.wrong.with(|wrong| {
                wrong.iter().find(|(name, _)| belongs(name, field)).map(|(_, text)| text.clone())
            })
        })
    }

    /// A field is being mended.
    pub fn mend(self, field: &'static str) {
        if self.wrong.with_untracked(|wrong| wrong.iter().any(|(name, _)| belongs(name, field))) {
            self.wrong.update(|wrong| wrong.retain(|(name, _)| !belongs(name, field)));
        }
    }

    /// The type that is chosen.
    pub fn chosen_type(self) -> Option<ServerType> {
        let kind = self.kind.get();
        self.offer.with(|o| o.as_ref().and_then(|o| o.types.iter().find(|t| t.name == kind).cloned()))
    }

    /// The image that is chosen.
    pub fn chosen_image(self) -> Option<Image> {
        let image = self.image.get();
        self.offer.with(|o| {
            o.as_ref().and_then(|o| o.images.iter().find(|i| i.name.as_deref() == Some(&*image)).cloned())
        })
    }

    /// The location that is chosen.
    pub fn chosen_location(self) -> Option<Location> {
        let location = self.location.get();
        self.offer.with(|o| o.as_ref().and_then(|o| o.locations.iter().find(|l| l.name == location).cloned()))
    }

    /// What it costs as chosen.
    pub fn prices(self) -> Option<Prices> {
        self.chosen_type().and_then(|kind| Prices::of(&kind, &self.location.get()))
    }

    /// The order as it goes to the control plane, or the fields that are wrong.
    pub fn read(self, taken: &[String]) -> Result<ServerCreate, Vec<(String, String)>> {
        let mut wrong = Vec::new();
        let mut no = |field: &str, text: String| wrong.push((field.to_owned(), text));
        let name = self.name.get_untracked().trim().to_owned();
        if let Some(fault) = name_fault(&name, taken) {
            no("name", fault);
        }
        for (field, value) in [("location", self.location), ("image", self.image), ("server_type", self.kind)]
        {
            if value.with_untracked(String::is_empty) {
                no(field, "Choose one.".to_owned());
            }
        }
        let labels = forms::labels(&self.labels.get_untracked()).unwrap_or_else(|text| {
            no("labels", text);
            Default::default()
        });
        let user_data = self.user_data.get_untracked();
        if user_data.len() > USER_DATA_MAX_BYTES {
            no("user_data", "User data has at most 32 KiB.".to_owned());
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(ServerCreate {
            name,
            server_type: NameOrId::Name(self.kind.get_untracked()),
            image: NameOrId::Name(self.image.get_untracked()),
            location: Some(NameOrId::Name(self.location.get_untracked())),
            ssh_keys: self
                .chosen_keys
                .with_untracked(|keys| keys.iter().map(|key| NameOrId::Id(key.0)).collect()),
            user_data: (!user_data.trim().is_empty()).then_some(user_data),
            labels,
            ..ServerCreate::default()
        })
    }
}

/// Does an error's path, `labels.env`, belong to the field, `labels`?
fn belongs(path: &str, field: &str) -> bool {
    path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// What is wrong with a name, as far as can be known here.
pub fn name_fault(name: &str, taken: &[String]) -> Option<String> {
    server_name_fault(name)
        .map(str::to_owned)
        .or_else(|| taken.iter().any(|t| t == name).then(|| format!("{name} exists in this project.")))
}

/// Where on the page a field is, and how the summary calls it.
pub fn place(path: &str) -> (&'static str, &'static str) {
    match path.split(['.', '[']).next().unwrap_or_default() {
        "name" => ("name", "Name"),
        "location" | "datacenter" => ("location", "Location"),
        "image" => ("image", "Image"),
        "server_type" => ("server_type", "Type"),
        "ssh_keys" => ("ssh_keys", "SSH keys"),
        "labels" => ("labels", "Labels"),
        "user_data" => ("user_data", "User data"),
        _ => ("name", "Order"),
    }
}

/// Asks for everything that can be chosen from.
pub async fn load(api: Api, live: Live, order: Order) -> Result<Offer, Fault> {
    let asked = live.asking();
    let all = futures_util::future::join4(api.locations(), api.images(), api.server_types(), api.ssh_keys());
    let (locations, images, types, keys) = all.await;
    let (locations, images, types) = (locations?.locations, images?.images, types?.server_types);
    let keys = keys?.ssh_keys;
    // One's own key is most likely the first that was added.
    let first = keys.iter().map(|key| key.id).min();
    order.chosen_keys.update(|chosen| chosen.extend(first));
    order.keys.set(keys);
    // Names that are taken; without them the control plane says so.
    let query = ServerQuery::default();
    if let Ok(list) = api.servers(&query).await {
        live.learn_servers(asked, list.servers);
    }
    let usable = |i: &Image| {
        i.kind == ImageKind::System
            && i.status == ImageStatus::Available
            && i.deprecated.is_none()
            && i.name.is_some()
    };
    let images = images.into_iter().filter(usable).collect();
    let mut types: Vec<ServerType> = types.into_iter().filter(|t| !t.deprecated).collect();
    types.sort_unstable_by(|a, b| a.cores.cmp(&b.cores).then(a.memory.total_cmp(&b.memory)));
    Ok(Offer { locations, images, types })
}

/// Chooses what most people take, so that an order is one click away.
pub fn choose_first(order: Order, offer: Offer) {
    let location =
        offer.locations.iter().find(|l| offer.types.iter().any(|t| Prices::of(t, &l.name).is_some()));
    let location = location.map(|l| l.name.clone()).unwrap_or_default();
    let image = offer.images.iter().find(|i| i.os_flavor == "debian").or(offer.images.first());
    let disk = image.map_or(0.0, |i| i.disk_size);
    let fits = |t: &&ServerType| Prices::of(t, &location).is_some() && f64::from(t.disk) >= disk;
    if let Some(kind) = offer.types.iter().find(fits) {
        order.cpu.set(kind.cpu_type);
        order.kind.set(kind.name.clone());
    }
    order.image.set(image.and_then(|i| i.name.clone()).unwrap_or_default());
    order.location.set(location);
    order.offer.set(Some(offer));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_parts_belong_to_their_field() {
        assert!(belongs("labels.env", "labels"));
        assert!(belongs("ssh_keys[1]", "ssh_keys"));
        assert!(belongs("name", "name"));
        assert!(!belongs("name_servers", "name"));
        assert_eq!(place("labels.env").0, "labels");
    }

    #[test]
    fn a_taken_name_is_refused_before_it_is_sent() {
        let taken = ["web-1".to_owned()];
        assert_eq!(name_fault("web-1", &taken).as_deref(), Some("web-1 exists in this project."));
        assert!(name_fault("-", &taken).is_some());
        assert_eq!(name_fault("web-2", &taken), None);
    }
}
