//! What the control API does about members that arrive one by one. See `gathering`.

use std::sync::Arc;

use umd_core::array::{Control, MemberRole};

use super::gathering::Arrived;
use super::household::{Answer, Household, blocking, find_in};
use crate::api::{
    DoneDoc, ErrorDoc, IncrementalDoc, IncrementalRequest, ManageRequest, SCHEMA,
    StartWaitingRequest,
};
use crate::doc::ArrayDoc;

impl Household {
    /// A device has arrived.
    ///
    /// # Errors
    /// When it is no member, is in use, or its array runs and it was not to be added.
    pub async fn incremental(
        self: &Arc<Self>,
        request: IncrementalRequest,
    ) -> Answer<IncrementalDoc> {
        let (own, copy) = (self.clone(), request.clone());
        let arrived = blocking(move || own.gathering.arrive(&own.surroundings(), &copy)).await;
        let arrived = match arrived {
            Ok(arrived) => arrived,
            Err(error) => return Err(self.explain(error).await),
        };
        let device = &request.device;
        let (name, started, messages) = match arrived {
            Arrived::Running(name) => {
                let text = self.join(&name, &request).await?;
                (name, "already", vec![text])
            }
            Arrived::Waits { name, enough, here } => {
                let (word, how) = match enough {
                    true => ("unsafe", "not enough to start safely.".to_owned()),
                    false => ("no", format!("not enough to start ({here}).")),
                };
                let text = format!("{device} attached to {name}, {how}");
                (name, word, vec![text])
            }
            Arrived::Started(started) => {
                let mut messages = started.messages;
                let name = started.name;
                messages.push(format!(
                    "{device} attached to {name}, which has been started."
                ));
                (name, "yes", messages)
            }
        };
        let uuid = self.detail(&name).await?.uuid;
        Ok(IncrementalDoc {
            schema: SCHEMA,
            name,
            uuid,
            started: started.to_owned(),
            messages,
        })
    }

    /// A device whose array runs: put in only where that was asked for, as mdadm does.
    async fn join(&self, name: &str, request: &IncrementalRequest) -> Answer<String> {
        let device = &request.device;
        if !request.run {
            return Err(ErrorDoc {
                exit_code: 2,
                ..ErrorDoc::new(format!(
                    "not adding {device} to active array (without --run) {name}"
                ))
            });
        }
        let manage = ManageRequest {
            operation: "add".into(),
            device: device.clone(),
            with: None,
            write_mostly: None,
            failfast: None,
            force: false,
            bad_block_log: request.bad_block_log,
        };
        self.manage(name, manage).await?;
        Ok(format!(
            "{device} attached to {name} which is already active."
        ))
    }

    /// Starts what waits, with the members that are here.
    ///
    /// # Errors
    /// When something does not start; the others do. Or nothing of that name waits.
    pub async fn start_waiting(self: &Arc<Self>, request: StartWaitingRequest) -> Answer<DoneDoc> {
        let (own, name) = (self.clone(), request.name.clone());
        let done = blocking(move || {
            let around = own.surroundings();
            Ok(own.gathering.start_waiting(&around, name.as_deref()))
        })
        .await?;
        if let (Some(name), true) = (&request.name, done.is_empty()) {
            return Err(super::household::no_such_array(name));
        }
        let mut messages = Vec::new();
        let mut failed: Option<ErrorDoc> = None;
        for (name, started) in done {
            match started {
                Ok(started) => {
                    messages.extend(started.messages);
                    messages.push(format!("started array {name}"));
                }
                Err(error) => {
                    messages.extend(failed.replace(error).map(|before| before.error));
                }
            }
        }
        match failed {
            Some(mut error) => {
                messages.append(&mut error.messages);
                error.messages = messages;
                Err(error)
            }
            None => Ok(DoneDoc {
                messages,
                ..DoneDoc::plain()
            }),
        }
    }

    /// A device has gone: it is failed and taken out, or does not wait any longer.
    ///
    /// # Errors
    /// When no array has it, or its array cannot do without it.
    pub async fn device_gone(self: &Arc<Self>, device: &str) -> Answer<DoneDoc> {
        let (own, path) = (self.clone(), device.to_owned());
        if let Some(name) = blocking(move || Ok(own.gathering.leave(&path))).await? {
            return Ok(DoneDoc {
                messages: vec![format!("hot removed {device} from {name}")],
                ..DoneDoc::plain()
            });
        }
        let arrays = self.list().await.arrays;
        let Some(array) = arrays.iter().find(|array| find_in(array, device).is_some()) else {
            return Err(ErrorDoc::new(format!(
                "{device} does not appear to be a component of any array"
            )));
        };
        self.fail_and_remove(array, device).await
    }

    async fn fail_and_remove(&self, array: &ArrayDoc, device: &str) -> Answer<DoneDoc> {
        let name = &array.name;
        let handle = self.handle(name)?;
        let (snapshot, _) = self.look(name, &handle).await?;
        let path = find_in(array, device).map_or(device, |member| member.path.as_str());
        let device = device.rsplit('/').next().unwrap_or(device);
        let members = snapshot.status.members.iter();
        let mut done = DoneDoc::plain();
        for member in members.filter(|member| member.name == path) {
            let mut steps = vec![(Control::Remove(member.id), "hot removed")];
            if matches!(
                member.role,
                MemberRole::InSync | MemberRole::Recovering { .. }
            ) {
                steps.insert(0, (Control::Fail(member.id), "set"));
            }
            for (control, verb) in steps {
                let answer = handle
                    .control(control)
                    .await
                    .map_err(super::household::stopped(name))?;
                let what = match verb {
                    "set" => format!("set device faulty failed for {device}"),
                    _ => format!("hot remove failed for {device}"),
                };
                answer.map_err(|error| super::household::refused(&what, &error))?;
                done.messages.push(match verb {
                    "set" => format!("set {device} faulty in {name}"),
                    _ => format!("hot removed {device} from {name}"),
                });
            }
        }
        Ok(done)
    }
}
