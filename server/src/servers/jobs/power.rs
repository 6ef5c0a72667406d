//! `start_server`, `stop_server`, `shutdown_server`, `reboot_server`, `reset_server`: one saga of
//! two steps, told apart by its [`Verb`]. The server was put to `starting` or `stopping` by the
//! request. In the end, also when it was given up, it does what its machine was last seen to do.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::time::Duration;

use anyhow::anyhow;
use berth_model::agent::{PowerVerb, VmShutdown, VmState, WantedPower, function};
use berth_model::{ErrorCode, NodeId, ServerId, Timestamp, VmId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::{LAST_LOOK, Look, follow};
use crate::World;
use crate::jobs::{Queue, Saga, StepContext, StepError, StepName};
use crate::servers::{machine, queries};

/// How long a system may take to shut down, in seconds, before the action is given up.
pub const SHUTDOWN_WAIT_S: i64 = 90;
/// Pause between looks at a machine.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What a server is told to do.
pub trait Verb: Copy + PartialEq + Debug + Send + Sync + 'static {
    /// The action's word.
    const COMMAND: &'static str;
    /// What the agent is told.
    const POWER: PowerVerb;
    /// Should the machine be off in the end?
    const ENDS_OFF: bool;
    /// The two steps, as the customer reads them.
    const TITLES: [&'static str; 2];
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident, $command:literal, $power:ident, $ends_off:literal, $titles:expr;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name;

        impl Verb for $name {
            const COMMAND: &'static str = $command;
            const POWER: PowerVerb = PowerVerb::$power;
            const ENDS_OFF: bool = $ends_off;
            const TITLES: [&'static str; 2] = $titles;
        }
    )+};
}

verbs! {
    /// Starts it.
    Start, "start_server", Start, false, ["Start the machine", "Wait until it runs"];
    /// Pulls the plug.
    PowerOff, "stop_server", PowerOff, true, ["Switch the machine off", "Wait until it is off"];
    /// Asks the system to stop.
    Shutdown, "shutdown_server", Shutdown, true, ["Ask the system to shut down", "Wait until it is off"];
    /// Asks the system to reboot.
    Reboot, "reboot_server", Reboot, false, ["Ask the system to reboot", "Wait until it runs"];
    /// Presses the reset button.
    Reset, "reset_server", Reset, false, ["Reset the machine", "Wait until it runs"];
}

/// The job's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Power<V> {
    server: ServerId,
    node: NodeId,
    /// When the agent had been told.
    told: Option<Timestamp>,
    /// The revision that it was told then, when it was told everything.
    #[serde(default)]
    revision: Option<i64>,
    /// Does it boot a rescue system now?
    #[serde(default)]
    rescued: bool,
    /// The last look at the machine, for as long as the step takes.
    #[serde(skip)]
    look: Option<Look>,
    #[serde(skip)]
    verb: PhantomData<V>,
}

impl<V: Verb> Power<V> {
    /// Tells this server on this node.
    pub fn new(server: ServerId, node: NodeId) -> Self {
        Self { server, node, told: None, revision: None, rescued: false, look: None, verb: PhantomData }
    }

    /// What waits for the next start comes with a start: so a reboot of a machine that has something waiting is a
    /// stop and a start, and a start tells the node everything.
    async fn tell(&mut self, world: &World) -> Result<(), StepError> {
        let (agent, vm) = (world.agents.node(self.node), VmId::from(self.server));
        let waits = match V::POWER {
            PowerVerb::Reboot | PowerVerb::Reset => {
                agent.get_vm(vm).await?.is_some_and(|vm| vm.state.is_on() && !vm.pending.is_empty())
            }
            _ => false,
        };
        match V::POWER {
            PowerVerb::Start => {}
            PowerVerb::Reboot if waits => {
                let patience = VmShutdown { wait_s: u32::try_from(SHUTDOWN_WAIT_S).ok() };
                agent.call::<function::vm::Shutdown>(&vm, &patience).await?;
            }
            PowerVerb::Reset if waits => drop(agent.power(vm, PowerVerb::PowerOff).await?),
            verb => return Ok(agent.power(vm, verb).await.map(drop)?),
        }
        let mut conn = world.db.acquire().await?;
        let wanted = machine::wanted(&mut conn, &world.config, self.server, WantedPower::On).await?;
        drop(conn);
        let Some(wanted) = wanted else {
            let why = anyhow!("server {} is gone while it is being started", self.server);
            return Err(StepError::fail(ErrorCode::ServerError, "The server is gone.", why));
        };
        agent.put_vm(vm, &wanted.spec).await?;
        self.revision = Some(wanted.machine.revision);
        self.rescued = wanted.spec.rescue.is_some();
        Ok(())
    }

    async fn look(&mut self, cx: &StepContext, world: &World) -> Result<(), StepError> {
        let look = Look::at(world, self.node, self.server).await?;
        self.look = Some(look);
        let there = match look.state {
            None => {
                let why = anyhow!("the machine of server {} is not on its node", self.server);
                let customer = "The machine behind this server was not found on its node.";
                return Err(StepError::fail(ErrorCode::ServiceError, customer, why));
            }
            Some(VmState::Off | VmState::Crashed) => V::ENDS_OFF,
            Some(VmState::Running) => !V::ENDS_OFF,
            Some(VmState::Paused) => false,
        };
        if there {
            return Ok(());
        }
        // A reboot that ended in a stop is the guest's own doing.
        if matches!(V::POWER, PowerVerb::Reboot | PowerVerb::Reset) && look.state != Some(VmState::Paused) {
            return Ok(());
        }
        let patience_ends = self.told.map(|told| told.plus_seconds(SHUTDOWN_WAIT_S));
        if V::POWER == PowerVerb::Shutdown && patience_ends.is_none_or(|end| cx.now > end) {
            let why = anyhow!("the guest of server {} did not shut down", self.server);
            let customer = format!(
                "The system did not shut down within {SHUTDOWN_WAIT_S} seconds. It still runs; power it off if it hangs."
            );
            return Err(StepError::fail(ErrorCode::Timeout, customer, why));
        }
        Err(StepError::NotYet(LOOK_AGAIN))
    }
}

/// A step of [`Power`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<V> {
    settles: bool,
    verb: PhantomData<V>,
}

impl<V: Verb> StepName for Step<V> {
    const ALL: &'static [Self] =
        &[Self { settles: false, verb: PhantomData }, Self { settles: true, verb: PhantomData }];

    fn word(self) -> &'static str {
        if self.settles { "settle" } else { "tell" }
    }

    fn title(self) -> &'static str {
        V::TITLES[usize::from(self.settles)]
    }
}

impl<V: Verb> Saga for Power<V> {
    const KIND: &'static str = V::COMMAND;
    const QUEUE: Queue = Queue::Interactive;
    const DEADLINE: Duration = Duration::from_secs(3 * 60);
    type Step = Step<V>;

    async fn run(&mut self, step: Step<V>, cx: &StepContext, world: &World) -> Result<(), StepError> {
        if step.settles {
            return self.look(cx, world).await;
        }
        self.tell(world).await
    }

    async fn record(
        &mut self,
        step: Step<V>,
        cx: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        if !step.settles {
            self.told = Some(cx.now);
            // What changed meanwhile may have been told before this was heard.
            if let Some(revision) = self.revision
                && queries::set_told(conn, self.server, revision).await? == Some(false)
            {
                follow::told_anew(conn, self.server, cx.now).await?;
            }
            return Ok(());
        }
        // A rescue is for one start: the next is the server's own again.
        if self.rescued && queries::end_rescue(conn, self.server).await? {
            follow::told_anew(conn, self.server, cx.now).await?;
        }
        queries::unlock(conn, self.server, self.look).await?;
        Ok(queries::publish(conn, self.server, cx.now).await?)
    }

    /// Takes nothing back, but sees how things stand; an agent that does not answer leaves that to the
    /// news of it.
    async fn undo(&mut self, step: Step<V>, _: &StepContext, world: &World) -> Result<(), StepError> {
        if !step.settles {
            let look = tokio::time::timeout(LAST_LOOK, Look::at(world, self.node, self.server)).await;
            self.look = look.ok().and_then(Result::ok);
        }
        Ok(())
    }

    async fn record_undo(
        &mut self,
        step: Step<V>,
        cx: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        if step.settles {
            return Ok(());
        }
        queries::unlock(conn, self.server, self.look).await?;
        if !V::ENDS_OFF {
            // What it told may be heard late, after what others told.
            follow::told_anew(conn, self.server, cx.now).await?;
        }
        Ok(queries::publish(conn, self.server, cx.now).await?)
    }
}
