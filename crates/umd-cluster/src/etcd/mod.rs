//! The engine for several hosts: a log in etcd.
//!
//! ```text
//!   /umd/cluster/1/<array's uuid>/
//!     mark/<lease>             bound to the lease: it goes with it
//!     log/<lease>-<number>     an entry; its place is the revision at which it was made
//!     snapshot, snapshot-at    what the entries up to a place have come to, and that place
//!
//!   append:  if mark/<own> is there and log/<own>-<number> is not
//!            then put log/<own>-<number>, delete mark/<whom it expels>
//!   renew:   keep the lease alive, then see that the mark is there (an answer of the majority)
//!   follow:  watch; after a gap, or when history was compacted, read the log again
//! ```
//!
//! What a node says is in the log or is not, and is in it only while its lease holds: the lease is
//! part of the condition of each transaction. etcd's own lock is not used: it may be granted to who
//! has lost its lease meanwhile. Log, snapshot and with them slots, grants and deaths have no
//! lease: a cluster that was stopped, or lost power, finds them again.
//!
//! etcd does not renew watches or leases by itself; reconnecting is done here, and in
//! [`crate::LogEngine`], which tries again whatever failed.

mod gateway;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::engine::hex;
use crate::ledger::{Appended, Entry, Follow, Ledger, Mark, Opened, Renewal, Snapshot, Trouble};
use gateway::{Failed, Gateway, Lines, b64, number, text};

/// How many keys are deleted at once: etcd takes 128 operations in a transaction.
const DELETED_AT_ONCE: usize = 100;

/// Where an etcd is, and how it lets us in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Servers {
    /// The client URLs of its members: `http://HOST:PORT`, `https://HOST:PORT`.
    pub urls: Vec<String>,
    /// A user and its password, where etcd asks for one.
    pub user: Option<(String, String)>,
    /// The certificates (PEM) that may vouch for servers with `https`.
    pub ca_pem: Vec<u8>,
    /// Our certificate and its key (PEM), where servers ask for one.
    pub client_pem: Option<(Vec<u8>, Vec<u8>)>,
}

/// Up to where the log was followed.
struct Cursor {
    /// The last entry.
    place: u64,
    /// All below this revision was seen.
    next: u64,
    lines: Option<Lines>,
}

/// What etcd was when it was last asked: it must not go back, nor be another one.
#[derive(Default)]
struct Known {
    cluster: Option<String>,
    revision: u64,
    lost: bool,
}

/// The log of one array in etcd.
pub struct Etcd {
    gateway: Gateway,
    prefix: String,
    cursor: Mutex<Cursor>,
    known: Mutex<Known>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The range of all keys that begin so.
fn range(prefix: &str) -> (String, String) {
    // Prefixes end with '/', and '0' is the byte behind it.
    let end = format!("{}0", prefix.trim_end_matches('/'));
    (b64(prefix), b64(end))
}

impl Etcd {
    /// The log of an array. Calls end after a fifth of `session`. Asks nothing yet.
    ///
    /// # Errors
    /// When the servers are described in a way that cannot be.
    pub fn new(servers: &Servers, array: [u8; 16], session: Duration) -> Result<Etcd, Trouble> {
        let timeout = (session / 5).max(Duration::from_millis(300));
        let (place, next, lines) = (0, 1, None);
        Ok(Etcd {
            gateway: Gateway::new(servers, timeout)?,
            prefix: format!("/umd/cluster/1/{}/", hex(&array)),
            cursor: Mutex::new(Cursor { place, next, lines }),
            known: Mutex::default(),
        })
    }

    /// Whether etcd lets us in. Only a clear no is one: who cannot be asked may be there soon.
    ///
    /// # Errors
    /// When it knows neither us nor our password, or what we show it.
    pub fn lets_in(&self) -> Result<(), Trouble> {
        let body = json!({"key": b64(self.snapshot_key()), "keys_only": true});
        match self.gateway.ask("kv/range", &body) {
            Err(refused @ Failed::Refused(_)) => Err(refused.into()),
            Ok(_) | Err(Failed::Unanswered(_)) => Ok(()),
        }
    }

    fn mark_key(&self, mark: Mark) -> String {
        format!("{}mark/{:016x}", self.prefix, mark.0)
    }

    fn snapshot_key(&self) -> String {
        format!("{}snapshot", self.prefix)
    }

    fn place_key(&self) -> String {
        format!("{}snapshot-at", self.prefix)
    }

    /// Asks for what a majority knows, and sees that it is still the same etcd.
    fn ask(&self, path: &str, body: &Value) -> Result<Value, Trouble> {
        let before = lock(&self.known).revision;
        let answer = self.gateway.ask(path, body)?;
        let header = &answer["header"];
        let revision = number(&header["revision"]);
        let cluster = header["cluster_id"].as_str().unwrap_or_default();
        let mut known = lock(&self.known);
        let same = known.cluster.get_or_insert_with(|| cluster.to_owned()) == cluster;
        if !same || revision < before {
            known.lost = true;
            return Err(Trouble(
                "etcd is not the one it was: it was made anew, or restored from a backup".into(),
            ));
        }
        known.revision = known.revision.max(revision);
        Ok(answer)
    }

    fn entry(&self, kv: &Value) -> Option<Entry> {
        let key = text(&kv["key"])?;
        let log = key.strip_prefix(&self.prefix)?.starts_with("log/");
        log.then(|| Entry {
            place: number(&kv["mod_revision"]),
            text: text(&kv["value"]).unwrap_or_default(),
        })
    }

    /// Reads the log again: after a gap, or when what came behind was compacted.
    fn read_again(&self, cursor: &mut Cursor) -> Result<Follow, Trouble> {
        let (opened, revision) = self.read()?;
        let snapshot = opened.snapshot.as_ref();
        if snapshot.is_some_and(|snapshot| cursor.place < snapshot.trimmed) {
            return Ok(Follow::Missed);
        }
        let mut entries = opened.entries;
        entries.retain(|entry| entry.place > cursor.place);
        cursor.next = revision + 1;
        let stirred = true;
        Ok(Follow::Entries { entries, stirred })
    }

    /// All entries that are kept, what lies before the snapshot included; and the revision.
    fn read(&self) -> Result<(Opened, u64), Trouble> {
        let (from, to) = range(&format!("{}log/", self.prefix));
        let log = json!({"key": from, "range_end": to,
            "sort_order": "ASCEND", "sort_target": "CREATE"});
        let snapshot = json!({"key": b64(self.snapshot_key())});
        let both = json!({"success": [{"request_range": snapshot}, {"request_range": log}]});
        let answer = self.ask("kv/txn", &both)?;
        let revision = number(&answer["header"]["revision"]);
        let kvs = |at: usize| {
            let kvs = answer["responses"][at]["response_range"]["kvs"].as_array();
            kvs.cloned().unwrap_or_default()
        };
        let snapshot = kvs(0).first().and_then(|kv| text(&kv["value"]));
        let snapshot = snapshot.map(|text| snapshot_of(&text)).transpose()?;
        let entries = kvs(1).iter().filter_map(|kv| self.entry(kv)).collect();
        Ok((Opened { snapshot, entries }, revision))
    }

    /// Takes what one message of the watch says: entries, and whether a mark has gone.
    fn take(&self, message: &Value, cursor: &mut Cursor) -> (Vec<Entry>, bool) {
        let mut entries = Vec::new();
        let mut stirred = false;
        for event in message["events"].as_array().into_iter().flatten() {
            let kv = &event["kv"];
            let deleted = event["type"].as_str() == Some("DELETE");
            cursor.next = cursor.next.max(number(&kv["mod_revision"]) + 1);
            match self.entry(kv) {
                Some(entry) if !deleted && entry.place > cursor.place => entries.push(entry),
                _ => stirred |= deleted,
            }
        }
        (entries, stirred)
    }

    /// Begins to watch.
    fn begin_watch(&self, cursor: &mut Cursor, wait: Duration) -> Result<(), Trouble> {
        let (from, to) = range(&self.prefix);
        let body = json!({"create_request": {"key": from, "range_end": to,
            "start_revision": cursor.next.to_string()}});
        cursor.lines = Some(self.gateway.watch(&body, wait)?);
        Ok(())
    }
}

/// A snapshot of its text.
fn snapshot_of(text: &str) -> Result<Snapshot, Trouble> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Trouble(format!("etcd has a record of another umd: {error}")))?;
    Ok(Snapshot {
        place: number(&value["place"]),
        trimmed: number(&value["trimmed"]),
        text: value["book"].to_string(),
    })
}

impl Ledger for Etcd {
    fn begin(&self, session: Duration) -> Result<Mark, Trouble> {
        let seconds = session.as_millis().div_ceil(1000);
        let lease = self.ask("lease/grant", &json!({"TTL": seconds.to_string()}))?;
        let (id, granted) = (number(&lease["ID"]), number(&lease["TTL"]));
        if id == 0 || u128::from(granted) < seconds {
            return Err(Trouble(format!("etcd grants no lease of {seconds} s")));
        }
        let mark = Mark(id);
        let put = json!({"key": b64(self.mark_key(mark)), "lease": id.to_string()});
        self.ask("kv/put", &put)?;
        Ok(mark)
    }

    fn renew(&self, mark: Mark) -> Result<Renewal, Trouble> {
        let kept = self
            .gateway
            .ask("lease/keepalive", &json!({"ID": mark.0.to_string()}))?;
        if number(&kept["TTL"]) == 0 {
            return Ok(Renewal::Ended);
        }
        // A server that has lost the majority may still answer the first; not this.
        let there = self.ask("kv/range", &json!({"key": b64(self.mark_key(mark))}))?;
        Ok(match number(&there["count"]) {
            0 => Renewal::Ended,
            _ => Renewal::Held,
        })
    }

    fn end(&self, mark: Mark) -> Result<(), Trouble> {
        let revoke = json!({"ID": mark.0.to_string()});
        self.gateway.ask("lease/revoke", &revoke)?;
        Ok(())
    }

    fn append(
        &self,
        mark: Mark,
        number_of_it: u64,
        text: &str,
        strike: &[Mark],
    ) -> Result<Appended, Trouble> {
        let alive = b64(self.mark_key(mark));
        let key = b64(format!(
            "{}log/{:016x}-{number_of_it:016x}",
            self.prefix, mark.0
        ));
        let mut then = vec![json!({"request_put": {"key": key, "value": b64(text)}})];
        for other in strike {
            let gone = b64(self.mark_key(*other));
            then.push(json!({"request_delete_range": {"key": gone}}));
        }
        let made = |key: &str, result: &str| {
            let (target, none) = ("CREATE", "0");
            json!({"key": key, "target": target, "result": result, "create_revision": none})
        };
        let body = json!({
            "compare": [made(&alive, "GREATER"), made(&key, "EQUAL")],
            "success": then,
            "failure": [{"request_range": {"key": key, "keys_only": true}}],
        });
        let answer = self.ask("kv/txn", &body)?;
        let there = number(&answer["responses"][0]["response_range"]["count"]) > 0;
        match answer["succeeded"].as_bool() == Some(true) || there {
            true => Ok(Appended::Done),
            false => Ok(Appended::Ended),
        }
    }

    fn open(&self) -> Result<Opened, Trouble> {
        let (mut opened, revision) = self.read()?;
        if let Some(snapshot) = &opened.snapshot {
            opened.entries.retain(|entry| entry.place > snapshot.place);
        }
        let last = opened.entries.last().map(|entry| entry.place);
        let snapshot = opened.snapshot.as_ref().map(|snapshot| snapshot.place);
        let mut cursor = lock(&self.cursor);
        if cursor.place == 0 {
            cursor.place = last.or(snapshot).unwrap_or(0);
            cursor.next = revision + 1;
        }
        Ok(opened)
    }

    fn follow(&self, place: u64, wait: Duration) -> Result<Follow, Trouble> {
        if lock(&self.known).lost {
            return Ok(Follow::Missed);
        }
        let mut guard = lock(&self.cursor);
        let cursor = &mut *guard;
        if cursor.place != place {
            (cursor.place, cursor.next, cursor.lines) = (place, place + 1, None);
        }
        let followed = self.follow_from(cursor, wait);
        if let Ok(Follow::Entries { entries, .. }) = &followed {
            cursor.place = entries.last().map_or(place, |entry| entry.place);
        }
        followed
    }

    fn marks(&self) -> Result<BTreeSet<Mark>, Trouble> {
        let prefix = format!("{}mark/", self.prefix);
        let (from, to) = range(&prefix);
        let all = json!({"key": from, "range_end": to, "keys_only": true});
        let answer = self.ask("kv/range", &all)?;
        let kvs = answer["kvs"].as_array().into_iter().flatten();
        let marks = kvs.filter_map(|kv| {
            let key = text(&kv["key"])?;
            let digits = key.strip_prefix(&prefix)?;
            Some(Mark(u64::from_str_radix(digits, 16).ok()?))
        });
        Ok(marks.collect())
    }

    fn trim(&self, old: Option<u64>, new: &Snapshot) -> Result<(), Trouble> {
        let at = b64(self.place_key());
        let unchanged = match old {
            Some(old) => json!({"key": at, "target": "VALUE", "result": "EQUAL",
                "value": b64(old.to_string())}),
            None => json!({"key": at, "target": "CREATE", "result": "EQUAL",
                "create_revision": "0"}),
        };
        let book: Value = serde_json::from_str(&new.text).expect("a book is JSON");
        let text = json!({"place": new.place.to_string(), "trimmed": new.trimmed.to_string(),
            "book": book});
        let put = |key: String, value: String| {
            let (key, value) = (b64(key), b64(value));
            json!({"request_put": {"key": key, "value": value}})
        };
        let body = json!({"compare": [unchanged], "success": [
            put(self.snapshot_key(), text.to_string()),
            put(self.place_key(), new.place.to_string()),
        ]});
        let answer = self.ask("kv/txn", &body)?;
        if answer["succeeded"].as_bool() != Some(true) || new.trimmed == 0 {
            return Ok(());
        }
        let (from, to) = range(&format!("{}log/", self.prefix));
        let old = json!({"key": from, "range_end": to, "keys_only": true,
            "max_create_revision": new.trimmed.to_string()});
        let old = self.ask("kv/range", &old)?;
        let keys = old["kvs"].as_array().cloned().unwrap_or_default();
        for some in keys.chunks(DELETED_AT_ONCE) {
            let deletes = some
                .iter()
                .map(|kv| json!({"request_delete_range": {"key": kv["key"]}}));
            let deletes: Vec<Value> = deletes.collect();
            self.ask("kv/txn", &json!({"success": deletes}))?;
        }
        Ok(())
    }
}

impl Etcd {
    fn follow_from(&self, cursor: &mut Cursor, wait: Duration) -> Result<Follow, Trouble> {
        let begun = Instant::now();
        if cursor.lines.is_none() {
            self.begin_watch(cursor, wait)?;
        }
        loop {
            let lines = cursor.lines.as_mut().expect("begun");
            let message = lines.next();
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) | Err(_) => {
                    cursor.lines = None;
                    message?;
                    // One that ends at once, again and again, is no watch.
                    if begun.elapsed() < wait / 10 {
                        return Err(Trouble("etcd breaks off the watch".into()));
                    }
                    let (entries, stirred) = (Vec::new(), false);
                    return Ok(Follow::Entries { entries, stirred });
                }
            };
            // History does not go back that far, or the server has other reasons.
            if message["canceled"].as_bool() == Some(true) {
                cursor.lines = None;
                return self.read_again(cursor);
            }
            let (entries, stirred) = self.take(&message, cursor);
            if !entries.is_empty() || stirred || begun.elapsed() >= wait {
                return Ok(Follow::Entries { entries, stirred });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_zero_and_keys_are_text() {
        let answer = json!({"revision": "9007199254740993", "key": b64("/umd/a")});
        assert_eq!(number(&answer["revision"]), 9_007_199_254_740_993);
        assert_eq!(number(&answer["count"]), 0);
        assert_eq!(text(&answer["key"]).as_deref(), Some("/umd/a"));
        assert_eq!(text(&json!("no base64!")), None);
        assert_eq!(range("/a/b/"), (b64("/a/b/"), b64("/a/b0")));
    }

    #[test]
    fn servers_that_cannot_be_are_refused() {
        let new = |servers: &Servers| Etcd::new(servers, [1; 16], Duration::from_secs(10));
        let nobody = new(&Servers::default()).err().unwrap();
        assert_eq!(nobody.to_string(), "no etcd server is named");
        let servers = Servers {
            urls: vec!["https://127.0.0.1:1".into()],
            client_pem: Some((b"none".into(), b"none".into())),
            ..Servers::default()
        };
        let error = new(&servers).err().unwrap().to_string();
        assert!(
            error.starts_with("this client's key makes no sense"),
            "{error}"
        );
    }
}
