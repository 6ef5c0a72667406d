//! Typed ids: `int64` JSON numbers, stable for life (Hetzner Cloud API v1, "ids").

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(transparent))]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl core::str::FromStr for $name {
            type Err = core::num::ParseIntError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self)
            }
        }
    )+};
}

ids! {
    /// Who pays.
    AccountId,
    /// A person who signs in.
    UserId,
    /// A folder of resources in an account.
    ProjectId,
    /// An API token of a project.
    TokenId,
    /// What a customer rents. The agent calls the machine behind it [`VmId`], with the same number.
    ServerId,
    /// What an API call started.
    ActionId,
    /// An image.
    ImageId,
    /// The shape of a server.
    ServerTypeId,
    /// A place with nodes.
    LocationId,
    /// A building in a location; Berth has one per location, under the location's id.
    DatacenterId,
    /// A public key for new servers.
    SshKeyId,
    /// A hardware machine that runs VMs.
    NodeId,
    /// An address that can be handed out, to one holder after another.
    AddressId,
    /// A durable job.
    JobId,
    /// A volume.
    VolumeId,
    /// An ISO.
    IsoId,
    /// A private network. On the nodes it has a number of its own, [`PrivateNetworkId`].
    NetworkId,
    /// A firewall.
    FirewallId,
    /// A floating IP: who holds an address, so never the number of another one's.
    FloatingIpId,
    /// A primary IP: who holds an address, so never the number of another one's.
    PrimaryIpId,
    /// A placement group.
    PlacementGroupId,
    /// A certificate.
    CertificateId,
    /// A webhook.
    WebhookId,
    /// One event on its way to one webhook.
    WebhookDeliveryId,
    /// A request for a higher limit.
    LimitRequestId,
    /// The agent's number for a VM: the [`ServerId`] it stands behind. Unique in an installation.
    VmId,
    /// A private network of a project: the VXLAN network identifier, 1 to 16777215. Unique in an installation.
    PrivateNetworkId,
}

impl From<ServerId> for VmId {
    fn from(id: ServerId) -> Self {
        Self(id.0)
    }
}

impl From<VmId> for ServerId {
    fn from(id: VmId) -> Self {
        Self(id.0)
    }
}
