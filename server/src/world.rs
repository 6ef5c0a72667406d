//! What every part of the control plane works with.

use std::sync::Arc;

use sqlx::PgPool;

use crate::accounts::passwords::Passwords;
use crate::agents::Agents;
use crate::config::Config;
use crate::consoles::Consoles;
use crate::live::Hub;
use crate::load::Load;
use crate::secret::SecretKey;

/// Handed to handlers as axum state, and to job steps. Cheap to clone.
#[derive(Clone)]
pub struct World {
    /// The database.
    pub db: PgPool,
    /// The agents of the nodes.
    pub agents: Arc<Agents>,
    /// The settings.
    pub config: Arc<Config>,
    /// Seals what the database must keep but must not tell.
    pub secret_key: SecretKey,
    /// Hashes and checks passwords, a few at a time.
    pub passwords: Passwords,
    /// Live push: who listens here.
    pub live: Hub,
    /// The load of all servers.
    pub load: Load,
    /// The consoles that are open here.
    pub consoles: Consoles,
}
