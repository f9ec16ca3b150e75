//! The control API as a program sees it: what its description says is what the server does.
//!
//! ```text
//!   docs/openapi.json == GET /v1/openapi.json
//!        +-- every operation --> requests after its schema, and requests that break it
//!                                --> a status it lists, a body after that status's schema,
//!                                    never 5xx, and the array that ran is still what it was
//! ```

mod common;

use common::{Home, eventually, pattern};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// Where the description is kept for readers; `UMD_WRITE_DOCS=1` writes it.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
/// Requests of each kind to each operation.
const ROUNDS: u64 = 40;

struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

/// One request, with exactly these bytes as its body.
fn http(home: &Home, method: &str, path: &str, body: &[u8]) -> Answer {
    let socket = home.runtime().join("umd/control.sock");
    let mut stream = UnixStream::connect(socket).expect("a daemon");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: umd\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sends");
    stream.write_all(body).expect("sends");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("answers");
    let all = String::from_utf8(all).expect("text");
    let (head, body) = all.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status");
    let kind = head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        let wanted = key.eq_ignore_ascii_case("content-type");
        wanted.then(|| value.trim().to_owned())
    });
    Answer {
        status: status.parse().expect("a number"),
        content_type: kind.unwrap_or_default(),
        body: unchunked(head, body),
    }
}

fn unchunked(head: &str, body: &str) -> String {
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut out, mut rest) = (String::new(), body);
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            break;
        }
        out.push_str(&tail[..size]);
        rest = tail[size..].trim_start_matches("\r\n");
    }
    out
}

fn running(home: &Home) {
    home.umd("create r5 -l5 -n3 --size 8M --assume-clean --bitmap internal a b c")
        .ok();
}

#[test]
fn the_description_that_readers_get_is_the_servers() {
    let home = Home::new();
    running(&home);
    let answer = http(&home, "GET", "/v1/openapi.json", b"");
    assert_eq!(answer.status, 200);
    if std::env::var_os("UMD_WRITE_DOCS").is_some() {
        std::fs::write(DOCUMENT, &answer.body).expect("writes");
    }
    let kept = std::fs::read_to_string(DOCUMENT).expect("docs/openapi.json");
    assert!(
        kept == answer.body,
        "docs/openapi.json is of another time: UMD_WRITE_DOCS=1 cargo test -p umd --test api"
    );
}

/// A small source of chance; the same for every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).expect("small")]
    }
}

/// Makes values after a schema, and breaks them.
struct Maker<'a> {
    description: &'a Value,
    dice: Dice,
    words: Vec<String>,
}

impl Maker<'_> {
    fn resolve(&self, schema: &Value) -> Value {
        match schema.get("$ref").and_then(Value::as_str) {
            Some(path) => {
                let found = self.description.pointer(&path[1..]).expect("it is there");
                self.resolve(found)
            }
            None => schema.clone(),
        }
    }

    fn make(&mut self, schema: &Value) -> Value {
        let schema = self.resolve(schema);
        for several in ["oneOf", "anyOf"] {
            if let Some(choices) = schema.get(several).and_then(Value::as_array) {
                let choice = self.dice.one(choices).clone();
                return self.make(&choice);
            }
        }
        let kinds = match &schema["type"] {
            Value::Array(kinds) => kinds.clone(),
            kind => vec![kind.clone()],
        };
        let kind = self.dice.one(&kinds).clone();
        match kind.as_str() {
            Some("object") => self.object(&schema),
            Some("array") => {
                let count = self.dice.below(4);
                (0..count).map(|_| self.make(&schema["items"])).collect()
            }
            Some("integer") => {
                let least = schema["minimum"].as_i64().unwrap_or(-3);
                let most = match schema["format"].as_str() {
                    Some("int32") => i64::from(i32::MAX),
                    _ => 1 << 40,
                };
                let numbers = [least, 0, 1, 2, 5, 8, 64, 2048, 131_072, most];
                json!(self.dice.one(&numbers))
            }
            Some("boolean") => json!(self.dice.below(2) == 0),
            Some("string") => json!(self.dice.one(&self.words.clone())),
            Some("null") => Value::Null,
            other => panic!("a kind this test does not know: {other:?} in {schema}"),
        }
    }

    fn object(&mut self, schema: &Value) -> Value {
        let properties = schema["properties"].as_object().expect("properties");
        let empty = Vec::new();
        let required = schema["required"].as_array().unwrap_or(&empty);
        let mut object = serde_json::Map::new();
        for (key, schema) in properties {
            if required.contains(&json!(key)) || self.dice.below(2) == 0 {
                object.insert(key.clone(), self.make(schema));
            }
        }
        Value::Object(object)
    }

    /// Nonsense in place of one of its parts, or of all of it.
    fn broken(&mut self, value: Value) -> Vec<u8> {
        let nonsense = [
            json!(-1),
            json!(1.5),
            json!(u64::MAX),
            json!(1e300),
            json!("\u{0}\u{202e}\\\"/../.."),
            json!("x".repeat(70_000)),
            json!([[[[]]]]),
            json!({"": null}),
            Value::Null,
        ];
        let mut value = value;
        match (self.dice.below(4), value.as_object_mut()) {
            (0, _) => {
                let mut text = value.to_string().into_bytes();
                let cut = self.dice.below(text.len() as u64 + 1);
                text.truncate(usize::try_from(cut).expect("small"));
                return text;
            }
            (1, Some(object)) if !object.is_empty() => {
                let keys: Vec<String> = object.keys().cloned().collect();
                object.remove(self.dice.one(&keys));
            }
            (2 | 3, Some(object)) if !object.is_empty() => {
                let keys: Vec<String> = object.keys().cloned().collect();
                let key = self.dice.one(&keys).clone();
                object.insert(key, self.dice.one(&nonsense).clone());
            }
            _ => value = self.dice.one(&nonsense).clone(),
        }
        value.to_string().into_bytes()
    }
}

/// The schema of an answer, and everything it refers to.
fn validator(description: &Value, schema: &Value) -> jsonschema::Validator {
    let mut whole = schema.clone();
    whole["components"] = description["components"].clone();
    jsonschema::validator_for(&whole).expect("a schema")
}

/// The answer is one that the description lists.
fn conforms(description: &Value, operation: &Value, what: &str, answer: &Answer) {
    assert!(
        answer.status < 500,
        "{what}: {}: {}",
        answer.status,
        answer.body
    );
    let listed = &operation["responses"][answer.status.to_string()];
    assert!(
        listed.is_object(),
        "{what}: {} is not listed",
        answer.status
    );
    let content = listed["content"].as_object().expect("a content");
    let kind = answer.content_type.split(';').next().unwrap_or_default();
    let content = content.get(kind);
    let content = content.unwrap_or_else(|| panic!("{what}: {kind} is not listed"));
    if kind != "application/json" {
        return;
    }
    let document: Value = serde_json::from_str(&answer.body).expect("JSON");
    let validator = validator(description, &content["schema"]);
    if let Err(error) = validator.validate(&document) {
        panic!(
            "{what}: {error} at {}\n{}",
            error.instance_path(),
            answer.body
        );
    }
    if answer.status != 200 {
        let text = document["error"].as_str().expect("a sentence");
        assert!(
            !text.is_empty() && !text.contains("panicked"),
            "{what}: {text}"
        );
    }
}

/// Every operation of the description: method, path, and itself. The stream of events never ends.
fn operations(description: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            if path != "/v1/events" {
                all.push((method.to_uppercase(), path.clone(), operation.clone()));
            }
        }
    }
    all
}

#[test]
fn the_server_does_what_its_description_says_whatever_is_asked() {
    let home = Home::new();
    running(&home);
    let data = pattern(3, 65536);
    home.nbd("r5").pwrite(0, &data).expect("writes");
    let description: Value =
        serde_json::from_str(&http(&home, "GET", "/v1/openapi.json", b"").body).expect("JSON");
    let dir = home.path("");
    let inside = |name: &str| dir.join(name).display().to_string();
    // Nothing outside the test's own directory is ever named.
    let words = [
        "", "r5", "none", "internal", "check", "fail", "re-add", "1.2", "n2", "wt3",
    ];
    let mut maker = Maker {
        description: &description,
        dice: Dice(11),
        words: words.map(str::to_owned).into_iter().collect(),
    };
    maker.words.extend(["a", "b", "x", "new/deep"].map(inside));
    let mut seen: BTreeMap<u16, u32> = BTreeMap::new();
    for (method, template, operation) in operations(&description) {
        // One array that may suffer.
        home.umd("stop r6");
        home.umd("create r6 -l1 -n2 --size 4M --assume-clean d e --run --force")
            .ok();
        for round in 0..ROUNDS {
            let name = ["nobody", "%00", "r%2F5", "..%2F..", "r6"][round as usize % 5];
            let mut path = template.replace("{name}", name);
            if path.ends_with("/wait") {
                path.push_str(
                    ["?timeout_ms=1", "?timeout_ms=-1", "?timeout_ms=x"][round as usize % 3],
                );
            }
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let body = match (schema.is_null(), round % 2) {
                (true, _) => Vec::new(),
                (false, 0) => maker.make(schema).to_string().into_bytes(),
                (false, _) => {
                    let whole = maker.make(schema);
                    maker.broken(whole)
                }
            };
            let answer = http(&home, &method, &path, &body);
            let text = String::from_utf8_lossy(&body[..body.len().min(400)]).into_owned();
            let what = format!("{method} {path} {text}");
            conforms(&description, &operation, &what, &answer);
            *seen.entry(answer.status).or_default() += 1;
        }
    }
    assert!(
        seen.len() >= 3,
        "it was asked all kinds of things: {seen:?}"
    );
    let back = home.nbd("r5").pread(0, 65536).expect("reads");
    assert!(back == data, "an array that nobody named is what it was");
}

/// The answers to what is right, too, are as described.
#[test]
fn answers_to_good_requests_conform() {
    let home = Home::new();
    running(&home);
    let description: Value =
        serde_json::from_str(&http(&home, "GET", "/v1/openapi.json", b"").body).expect("JSON");
    let ask = |method: &str, template: &str, body: Value| {
        let operation = &description["paths"][template][method.to_lowercase()];
        assert!(operation.is_object(), "{template} is described");
        let path = template.replace("{name}", "r5");
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = http(&home, method, &path, text.as_bytes());
        conforms(
            &description,
            operation,
            &format!("{method} {path}"),
            &answer,
        );
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
    };
    for path in [
        "/v1/version",
        "/v1/arrays",
        "/v1/arrays/{name}",
        "/v1/mdstat",
        "/metrics",
    ] {
        ask("GET", path, Value::Null);
    }
    ask(
        "POST",
        "/v1/arrays/{name}/action",
        json!({"action": "check"}),
    );
    ask("GET", "/v1/arrays/{name}/wait", Value::Null);
    let member = home.path("a").display().to_string();
    let fail = json!({"operation": "fail", "device": member, "force": false});
    ask("POST", "/v1/arrays/{name}/manage", fail);
    ask(
        "POST",
        "/v1/arrays/{name}/readonly",
        json!({"readonly": true}),
    );
    ask("POST", "/v1/arrays/{name}/stop", Value::Null);
}

/// Metrics as a scraper takes them apart: value by name and labels, every name with its type.
fn scraped(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with("# EOF\n"));
    let mut types = BTreeMap::new();
    let mut values = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(types.insert(name, kind), None, "{name} has one type");
        } else if !line.starts_with('#') {
            let (key, value) = line.rsplit_once(' ').expect("a value");
            let name = key.split('{').next().expect("a name");
            let known = types.keys().any(|known| name.starts_with(known));
            assert!(known, "{name} has a type");
            let value: f64 = value.parse().expect("a number");
            assert_eq!(
                values.insert(key.to_owned(), value),
                None,
                "{key} comes once"
            );
        }
    }
    values
}

#[test]
fn metrics_say_what_detail_says_and_count_what_was_done() {
    let home = Home::new();
    running(&home);
    let mut client = home.nbd("r5");
    client.pwrite(0, &pattern(5, 8192)).expect("writes");
    client.flush().expect("flushes");
    let values = scraped(&http(&home, "GET", "/metrics", b"").body);
    let value = |key: &str| {
        *values
            .get(key)
            .unwrap_or_else(|| panic!("{key} in {values:#?}"))
    };
    assert_eq!(value("node_md_state{device=\"r5\",state=\"active\"}"), 1.0);
    assert_eq!(
        value("node_md_state{device=\"r5\",state=\"recovering\"}"),
        0.0
    );
    assert_eq!(value("node_md_disks{device=\"r5\",state=\"active\"}"), 3.0);
    assert_eq!(value("node_md_disks_required{device=\"r5\"}"), 3.0);
    let size = home.detail("r5")["array_bytes"].as_u64().expect("a size");
    assert_eq!(value("node_md_blocks{device=\"r5\"}") as u64 * 1024, size);
    assert_eq!(
        value("umd_request_seconds_count{device=\"r5\",op=\"write\"}"),
        1.0
    );
    assert_eq!(
        value("umd_request_bytes_total{device=\"r5\",op=\"write\"}"),
        8192.0
    );
    assert_eq!(
        value("umd_request_seconds_bucket{le=\"+Inf\",device=\"r5\",op=\"flush\"}"),
        1.0
    );
    for purpose in ["data", "parity", "bitmap", "super", "flush"] {
        let key = format!("umd_member_io_seconds_count{{device=\"r5\",purpose=\"{purpose}\"}}");
        assert!(value(&key) >= 1.0, "a write asks members for that: {key}");
    }
    let rung = |rung: &str| {
        value(&format!(
            "umd_write_rung_seconds_count{{device=\"r5\",rung=\"{rung}\"}}"
        ))
    };
    for once in ["admit", "active", "bitmap", "faults", "settle"] {
        assert_eq!(rung(once), 1.0, "a write stands there once: {once}");
    }
    assert!(rung("lock") >= 1.0 && rung("write") == rung("lock"));
    assert!(rung("read") <= rung("lock"));
    let stood = |rung: &str| {
        value(&format!(
            "umd_write_rung_seconds_sum{{device=\"r5\",rung=\"{rung}\"}}"
        ))
    };
    let whole = value("umd_request_seconds_sum{device=\"r5\",op=\"write\"}");
    assert!(stood("active") > 0.0, "superblocks had to be written first");
    assert!(stood("active") <= whole && stood("write") <= rung("write") * whole);
    home.umd("manage r5 --fail b").ok();
    eventually("the loss is seen", || {
        let values = scraped(&http(&home, "GET", "/metrics", b"").body);
        values["node_md_degraded{device=\"r5\"}"] == 1.0
            && values["node_md_disks{device=\"r5\",state=\"failed\"}"] == 1.0
    });
}
