//! `create_server`: makes the machine behind a server that was ordered.
//!
//! When it is given up, nothing is left: no machine, address or row; the action says why. A worker
//! that lost its lease in the middle of its request to the agent may still be heard there after the
//! machine was removed again. The agent then tells of a VM whose server is gone, and
//! [`super::leftover`] removes it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use berth_model::address::IpFamily;
use berth_model::agent::{PowerVerb, VmState, WantedPower};
use berth_model::quota::QuotaKind;
use berth_model::{ByteSize, ErrorCode, NodeId, ServerId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::{Look, follow};
use crate::addresses::none_left;
use crate::config::Config;
use crate::jobs::{Queue, Saga, StepContext, StepError, StepName};
use crate::servers::machine::{self, Wanted};
use crate::servers::queries;
use crate::servers::rules::{self, Need, NoRoom};
use crate::{World, addresses, images, networks, nodes, placement_groups, quotas, servers, volumes};

/// Pause between looks at a machine that starts.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The job's data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerCreate {
    server: ServerId,
    /// Should it run in the end?
    start: bool,
    /// Of these families it gets new primary IPs.
    equips: Vec<IpFamily>,
    /// Where it is placed.
    node: Option<NodeId>,
    /// What the node was told, by its revision.
    #[serde(skip)]
    told: i64,
    /// The last look at its machine, for as long as the step takes.
    #[serde(skip)]
    look: Option<Look>,
    /// The limits of a project, and how long addresses cool down.
    #[serde(skip)]
    config: Option<Arc<Config>>,
}

/// The steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "titles say it")]
pub enum Step {
    Place,
    Address,
    Image,
    Machine,
    Boot,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[Self::Place, Self::Address, Self::Image, Self::Machine, Self::Boot];

    fn word(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Address => "address",
            Self::Image => "image",
            Self::Machine => "machine",
            Self::Boot => "boot",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Place => "Find a place",
            Self::Address => "Reserve its addresses",
            Self::Image => "Bring the image",
            Self::Machine => "Make the machine",
            Self::Boot => "Wait for the machine",
        }
    }
}

impl ServerCreate {
    /// Makes this server, and starts it or not. It gets new primary IPs of these families.
    pub fn new(server: ServerId, start: bool, equips: Vec<IpFamily>) -> Self {
        Self { server, start, equips, node: None, told: 0, look: None, config: None }
    }

    fn node(&self) -> Result<NodeId, StepError> {
        self.node.ok_or_else(|| StepError::Retry(anyhow!("server {} has no place", self.server)))
    }

    /// Removes the primary IPs of these families, which were made for it; those that its order named stay without a
    /// server.
    async fn release(
        &self,
        families: &[IpFamily],
        now: Timestamp,
        conn: &mut PgConnection,
    ) -> sqlx::Result<()> {
        queries::hold_observed(conn, self.server).await?;
        addresses::queries::release(conn, self.server, families, now).await
    }

    fn gone(&self) -> StepError {
        let why = anyhow!("server {} is gone while it is being made", self.server);
        StepError::fail(ErrorCode::ServerError, "The server is gone.", why)
    }

    async fn wanted(&self, world: &World) -> Result<Wanted, StepError> {
        let mut conn = world.db.acquire().await?;
        let power = if self.start { WantedPower::On } else { WantedPower::Off };
        let wanted = machine::wanted(&mut conn, &world.config, self.server, power).await?;
        wanted.ok_or_else(|| self.gone())
    }

    async fn look(&mut self, world: &World) -> Result<(), StepError> {
        let node = self.node()?;
        let look = Look::at(world, node, self.server).await?;
        self.look = Some(look);
        let Some(state) = look.state else {
            let why = anyhow!("the machine of server {} vanished from its node", self.server);
            return Err(StepError::fail(ErrorCode::ServiceError, "The machine vanished from its node.", why));
        };
        match state {
            VmState::Off | VmState::Crashed if self.start => {
                world.agents.node(node).power(self.server.into(), PowerVerb::Start).await?;
                Err(StepError::NotYet(LOOK_AGAIN))
            }
            VmState::Paused => Err(StepError::NotYet(LOOK_AGAIN)),
            VmState::Running | VmState::Off | VmState::Crashed => Ok(()),
        }
    }

    async fn record_place(&mut self, now: Timestamp, conn: &mut PgConnection) -> Result<(), StepError> {
        queries::hold_observed(conn, self.server).await?.ok_or_else(|| self.gone())?;
        let wish = queries::wish(conn, self.server).await?.ok_or_else(|| self.gone())?;
        let mut candidates = nodes::queries::candidates(conn, wish.location).await?;
        let bond = volumes::queries::bond(conn, self.server).await?;
        let taken = placement_groups::queries::taken(conn, self.server).await?;
        candidates.retain(|node| bond.node.is_none_or(|bound| node.id == bound) && !taken.contains(&node.id));
        let need = Need { disk: ByteSize(wish.need.disk.bytes() + bond.more.bytes()), ..wish.need };
        let node = rules::choose_node(&candidates, need).map_err(|why| match why {
            NoRoom::Silent => StepError::Retry(why.into()),
            NoRoom::Full => {
                let customer = match taken.is_empty() {
                    true => "There is no room for a server of this type in this location now.",
                    false => "No node with room is left that has none of the placement group's servers.",
                };
                StepError::fail(ErrorCode::PlacementError, customer, why)
            }
        })?;
        queries::place(conn, self.server, Some(node)).await?;
        networks::placed(conn, self.server, node, now).await?;
        volumes::queries::place(conn, self.server, node).await?;
        self.node = Some(node);
        Ok(())
    }

    async fn record_address(&self, now: Timestamp, conn: &mut PgConnection) -> Result<(), StepError> {
        // Whoever publishes a server holds its row, so that events keep the order of changes.
        queries::hold_observed(conn, self.server).await?.ok_or_else(|| self.gone())?;
        let wish = queries::wish(conn, self.server).await?.ok_or_else(|| self.gone())?;
        let of = (wish.project, wish.location, self.server);
        let config = self.config.as_ref().ok_or_else(|| StepError::Retry(anyhow!("the step did not run")))?;
        let cooled_by = config.addresses_cooled_by(now);
        for family in &self.equips {
            if !addresses::queries::equip(conn, of, *family, cooled_by, now).await? {
                let why = anyhow!("location {} has no free {} address", wish.location, family.noun());
                let customer = none_left(*family).message;
                return Err(StepError::fail(ErrorCode::ResourceUnavailable, customer, why));
            }
        }
        queries::publish(conn, self.server, now).await?;
        let checked = quotas::check(conn, config, wish.project, &[QuotaKind::PrimaryIps]).await;
        checked.map_err(|refused| {
            let error = refused.error().clone();
            match error.code {
                ErrorCode::ResourceLimitExceeded => {
                    StepError::fail(error.code, error.message, anyhow!("the primary IPs of its project"))
                }
                _ => StepError::Retry(anyhow!("its primary IPs were not counted: {error}")),
            }
        })
    }
}

impl Saga for ServerCreate {
    const KIND: &'static str = "create_server";
    const QUEUE: Queue = Queue::Interactive;
    /// An image of 20 GB may have to travel to the node first.
    const DEADLINE: Duration = Duration::from_secs(40 * 60);
    type Step = Step;

    async fn run(&mut self, step: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        match step {
            Step::Place => Ok(()),
            Step::Address => {
                self.config = Some(Arc::clone(&world.config));
                Ok(())
            }
            Step::Image => {
                let sha256 = self.wanted(world).await?.machine.image_sha256;
                images::travel::bring(world, self.node()?, &sha256).await?;
                volumes::make_for(world, self.node()?, self.server).await
            }
            Step::Machine => {
                networks::bring(world, self.server, self.node()?).await?;
                let wanted = self.wanted(world).await?;
                world.agents.node(self.node()?).put_vm(self.server.into(), &wanted.spec).await?;
                self.told = wanted.machine.revision;
                Ok(())
            }
            Step::Boot => self.look(world).await,
        }
    }

    async fn record(
        &mut self,
        step: Step,
        cx: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        match step {
            Step::Place => return self.record_place(cx.now, conn).await,
            Step::Address => return self.record_address(cx.now, conn).await,
            Step::Image => return Ok(()),
            Step::Machine => {
                match queries::set_told(conn, self.server, self.told).await? {
                    Some(true) => {}
                    Some(false) => return Err(StepError::NotYet(Duration::ZERO)),
                    None => return Err(self.gone()),
                }
                // What the node was told on the way may be older than what the others know.
                networks::placed(conn, self.server, self.node()?, cx.now).await?;
                if !self.start {
                    return Ok(());
                }
                queries::set_starting(conn, self.server).await?;
            }
            Step::Boot => {
                volumes::queries::attached_to(conn, self.server).await?;
                queries::unlock(conn, self.server, self.look).await?;
                // What changed while it was initializing, nobody else tells.
                follow::catch_up(conn, self.server, cx.now).await?;
            }
        }
        Ok(queries::publish(conn, self.server, cx.now).await?)
    }

    async fn undo(&mut self, step: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        match (step, self.node) {
            (Step::Machine, Some(node)) => Ok(world.agents.node(node).delete_vm(self.server.into()).await?),
            // The image stays on the node: others need it too.
            _ => Ok(()),
        }
    }

    async fn record_undo(
        &mut self,
        step: Step,
        cx: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        match step {
            Step::Address => self.release(&self.equips, cx.now, conn).await?,
            Step::Place => {
                self.release(&[], cx.now, conn).await?;
                servers::remove(conn, self.server, cx.now).await?;
            }
            Step::Image | Step::Machine | Step::Boot => {}
        }
        Ok(())
    }
}
