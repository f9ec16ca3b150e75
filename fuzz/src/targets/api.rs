//! The JSON of the control API: what is understood survives being said again.

use serde::{Serialize, de::DeserializeOwned};
use umd::api::{
    ActionRequest, ArraysDoc, AssembleRequest, CreateRequest, DoneDoc, ErrorDoc, EventDoc,
    ManageRequest, ReadonlyRequest, StartedDoc, VersionDoc, WaitDoc,
};

fn round<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(said) = serde_json::from_slice::<T>(bytes) else {
        return;
    };
    let once = serde_json::to_string(&said).expect("documents can be written");
    let again: T = serde_json::from_str(&once).expect("what was written can be read");
    assert_eq!(
        serde_json::to_string(&again).expect("and written again"),
        once
    );
}

/// Runs it.
pub fn run(data: &[u8]) {
    round::<CreateRequest>(data);
    round::<AssembleRequest>(data);
    round::<ManageRequest>(data);
    round::<ActionRequest>(data);
    round::<ReadonlyRequest>(data);
    round::<VersionDoc>(data);
    round::<ArraysDoc>(data);
    round::<StartedDoc>(data);
    round::<WaitDoc>(data);
    round::<DoneDoc>(data);
    round::<EventDoc>(data);
    round::<ErrorDoc>(data);
}
