//! What becomes of arrays: stop, run, and md's words for their state.
//!
//! ```text
//!   word          read                               written
//!   clear         a name and nothing else            stopped; its name goes by itself
//!   inactive      members that do not run            nothing on one that does not run
//!   readonly      nothing is written                 becomes so
//!   read-auto     so until a host writes             becomes so
//!   clean         superblocks say clean              they do; refused while writes are under way
//!   active        superblocks say active             writes are taken
//!   write-pending, active-idle, broken (and our own: frozen) are only read
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use umd_core::array::{Control, Settings};
use umd_core::registry::{ObjectId, Phase, Refusal};
use umd_core::value::Span;

use super::household::{Answer, Household, blocking, no_such_array, nonsense, refused, stopped};
use super::registry::{NotStopped, Registry, ToStop};
use crate::api::{
    DoneDoc, ErrorDoc, OpenerDoc, SCHEMA, SettingsRequest, StartWaitingRequest, StateDoc,
};

/// How long a stop waits for somebody who is about to close: whoever has just ended may still be
/// seen. mdadm asks again for that reason as well.
const CLOSING_PATIENCE: Duration = Duration::from_secs(1);
const CLOSING_PAUSE: Duration = Duration::from_millis(10);

impl Household {
    /// Stops an array, and returns when its members are free.
    ///
    /// # Errors
    /// When it is not there, somebody has it open (and `force` is not given), or it refuses.
    pub async fn stop(&self, name: &str, force: bool) -> Answer<DoneDoc> {
        let id = self.bring_to_rest(name, force).await?;
        // The thread closes the members and then takes itself out of the registry.
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !self.registry.is_there(id) {
                break;
            }
            ended.await;
        }
        Ok(DoneDoc {
            messages: vec![format!("stopped {name}")],
            ..DoneDoc::plain()
        })
    }

    /// Stops an array. Its name goes by itself, soon.
    async fn bring_to_rest(&self, name: &str, force: bool) -> Answer<ObjectId> {
        let start = Instant::now();
        let to_stop = loop {
            match self.registry.stop(name, force) {
                Err(NotStopped {
                    why: Refusal::Open, ..
                }) if start.elapsed() < CLOSING_PATIENCE => {
                    tokio::time::sleep(CLOSING_PAUSE).await;
                }
                other => break other.map_err(|not| not_stopped(name, not))?,
            }
        };
        let (id, handle) = match to_stop {
            ToStop::Nothing(id) => return Ok(id),
            ToStop::Members(id) => {
                self.gathering.stop(name);
                return Ok(id);
            }
            ToStop::Array(id, handle) => (id, handle),
        };
        let (registry, title) = (self.registry.clone(), name.to_owned());
        // Who asked may go away; what was begun is brought to its end.
        let stopping = tokio::spawn(async move {
            match handle.control(Control::Stop).await {
                Ok(Err(error)) => {
                    registry.stop_refused(id);
                    Err(refused(&format!("failed to stop array {title}"), &error))
                }
                // It has stopped, or ended before it was asked.
                Ok(Ok(_)) | Err(_) => Ok(id),
            }
        });
        let outcome = stopping.await;
        outcome.map_err(|error| ErrorDoc::new(format!("an invariant did not hold: {error}")))?
    }

    /// Stops all arrays, the newest first, also those that somebody has open; returns those that
    /// would not stop.
    pub async fn stop_all(&self) -> Vec<ErrorDoc> {
        let mut failures = Vec::new();
        for name in self.registry.names().into_iter().rev() {
            // What is being started is stopped when it is there; what is gone is gone.
            if !is_stoppable(&self.registry, &name) {
                continue;
            }
            let stopped = self.stop(&name, true).await;
            failures.extend(stopped.err().filter(|error| !error.not_found));
        }
        failures
    }

    /// md's word for the state of what has a name.
    ///
    /// # Errors
    /// When nothing has it.
    pub async fn state(&self, name: &str) -> Answer<StateDoc> {
        let state = match self.detail(name).await {
            Ok(array) => array.array_state,
            Err(error) => match self.registry.phase(name) {
                None => return Err(error),
                Some(_) => "clear".to_owned(),
            },
        };
        Ok(StateDoc {
            schema: SCHEMA,
            state,
        })
    }

    /// Writes a word to an array's state, with what md does for it.
    ///
    /// # Errors
    /// When it is no state that can be written, or not now.
    pub async fn set_state(self: &Arc<Self>, name: &str, word: &str) -> Answer<DoneDoc> {
        let (runs, there) = (
            self.registry.get(name).is_some(),
            self.registry.phase(name).is_some(),
        );
        let control = match word {
            _ if !there => return Err(no_such_array(name)),
            "clear" => {
                return self
                    .bring_to_rest(name, false)
                    .await
                    .map(|_| DoneDoc::plain());
            }
            "inactive" if !runs => return Ok(DoneDoc::plain()),
            "inactive" => return self.deactivate(name).await,
            "readonly" | "read-auto" if runs && !self.registry.openers(name).is_empty() => {
                let openers = self.registry.openers(name);
                let why = open_sentence(name, &openers);
                return Err(ErrorDoc {
                    openers,
                    ..ErrorDoc::new(format!("failed to set {word} for {name}: {why}"))
                });
            }
            "readonly" => return self.readonly(name, true).await,
            "active" if !runs => {
                let name = Some(name.to_owned());
                return self.start_waiting(StartWaitingRequest { name }).await;
            }
            "active" => return self.readonly(name, false).await,
            "read-auto" => Control::ReadAuto,
            "clean" if !runs => {
                return Err(nonsense(format!("{name} does not run: it cannot be clean")));
            }
            "clean" => Control::Clean,
            other => {
                return Err(nonsense(format!(
                    "{other} cannot be written to the state of an array: clear, inactive, \
                     readonly, read-auto, clean or active can"
                )));
            }
        };
        let handle = self.handle(name)?;
        if handle.how().readonly {
            return self.readonly(name, false).await; // Says why not.
        }
        let answer = handle.control(control).await.map_err(stopped(name))?;
        answer.map_err(|error| refused(&format!("failed to set {word} for {name}"), &error))?;
        handle.set_read_only(false);
        Ok(DoneDoc::plain())
    }

    /// Stops an array and keeps its members for it.
    async fn deactivate(self: &Arc<Self>, name: &str) -> Answer<DoneDoc> {
        let array = self.detail(name).await?;
        let handle = self.handle(name)?;
        let file = array
            .bitmap
            .as_ref()
            .is_some_and(|bitmap| bitmap.path.is_some());
        let why = match () {
            () if array.metadata == "none" => "it has no superblocks",
            () if file => "its bitmap lies in a file, which would have to be named again",
            () if array.overlay.is_some() => "its members are under an overlay",
            () if handle.how().readonly => "its members are open for reading only",
            () => "",
        };
        if !why.is_empty() {
            return Err(ErrorDoc::new(format!(
                "failed to set inactive for {name}: {why}; stop it instead"
            )));
        }
        drop(handle);
        let kept = array.members.iter().filter(|one| one.state != "faulty");
        let paths: Vec<String> = kept.map(|one| one.path.clone()).collect();
        self.stop(name, false).await?;
        let (own, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let around = own.surroundings();
            own.gathering.hold(&around, Some(&name), &paths, false)
        })
        .await?;
        Ok(DoneDoc::plain())
    }

    /// Changes how an array goes about its work.
    ///
    /// # Errors
    /// When it does not run, or nothing was named.
    pub async fn settings(&self, name: &str, request: &SettingsRequest) -> Answer<DoneDoc> {
        let handle = self.handle(name)?;
        if *request == SettingsRequest::default() {
            return Err(nonsense("no setting was named".into()));
        }
        if request.max_read_errors == Some(0) {
            let text = "max_read_errors is at least 1: the first read error is mended";
            return Err(nonsense(text.into()));
        }
        let settings = Settings {
            safe_mode_delay: request.safe_mode_delay_ms.map(|ms| Span::millis(ms.into())),
            max_read_errors: request.max_read_errors,
            fail_last_dev: request.fail_last_dev,
            suspend_lo_sectors: request.suspend_lo_sectors,
            suspend_hi_sectors: request.suspend_hi_sectors,
        };
        let control = Control::Settings(settings);
        let answer = handle.control(control).await.map_err(stopped(name))?;
        answer.map_err(|error| refused(&format!("cannot change {name}"), &error))?;
        Ok(DoneDoc::plain())
    }
}

fn is_stoppable(registry: &Registry, name: &str) -> bool {
    let phase = registry.phase(name);
    matches!(
        phase,
        Some(Phase::Running | Phase::Inactive | Phase::Stopping | Phase::Empty)
    )
}

/// Why nothing was stopped, for the user.
fn not_stopped(name: &str, not: NotStopped) -> ErrorDoc {
    let why = match not.why {
        Refusal::Open => open_sentence(name, &not.openers),
        Refusal::Starting => "it is being started".to_owned(),
        Refusal::Stopping => "it is already being stopped".to_owned(),
        Refusal::Unknown | Refusal::Taken | Refusal::Leaving => return no_such_array(name),
    };
    ErrorDoc {
        openers: not.openers,
        ..ErrorDoc::new(format!("failed to stop array {name}: {why}"))
    }
}

fn open_sentence(name: &str, openers: &[OpenerDoc]) -> String {
    let mut who: Vec<String> = openers.iter().map(ToString::to_string).collect();
    who.dedup();
    const NAMED: usize = 3;
    let rest = who.len().saturating_sub(NAMED);
    who.truncate(NAMED);
    let tail = match rest {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    format!(
        "it is open by {}{tail}; disconnect there first, or stop it with umd stop --force {name}",
        who.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_it_open_is_named() {
        let one = |pid: u32, command: Option<&str>| OpenerDoc {
            door: "nbd".into(),
            pid: Some(pid),
            command: command.map(str::to_owned),
            uid: Some(0),
            address: None,
        };
        let host = OpenerDoc {
            address: Some("10.0.0.1:999".into()),
            pid: None,
            ..one(0, None)
        };
        let all = [
            one(7, Some("nbdcopy")),
            one(7, Some("nbdcopy")),
            one(8, None),
            host.clone(),
            one(9, None),
        ];
        assert_eq!(
            open_sentence("r5", &all),
            "it is open by nbdcopy (process 7), process 8, a client at 10.0.0.1:999 and 1 more; \
             disconnect there first, or stop it with umd stop --force r5"
        );
    }
}
