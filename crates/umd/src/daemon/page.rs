//! The page for browsers, and what it shows beside the documents everybody gets.
//!
//! Three files, compiled in; they fetch nothing from elsewhere. They come over the control socket
//! like everything else, and over TCP where a door was opened (`web`).

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::household::{Answer, Household, stopped};
use super::meter::{KINDS, PURPOSES};
use crate::api::{CountDoc, MapDoc, MapMemberDoc, MapRangeDoc, SCHEMA, StatsDoc};
use umd_core::value::Histogram;

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; object-src 'none'";

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}

/// The routes of the page.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let html = || async { asset("text/html; charset=utf-8", include_str!("page/page.html")) };
    let style = || async { asset("text/css; charset=utf-8", include_str!("page/page.css")) };
    let script = || async {
        asset(
            "text/javascript; charset=utf-8",
            include_str!("page/page.js"),
        )
    };
    Router::new()
        .route("/", get(html))
        .route("/page.css", get(style))
        .route("/page.js", get(script))
}

impl Household {
    /// Where dirty regions and bad blocks of an array lie.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn map(&self, name: &str, cells: u16) -> Answer<MapDoc> {
        let handle = self.handle(name)?;
        let (snapshot, _) = self.look(name, &handle).await?;
        let map = handle.map(cells).await.map_err(stopped(name))?;
        let members = map.bad.into_iter().filter_map(|(id, bad)| {
            let member = snapshot.status.members.iter().find(|m| m.id == id)?;
            let ranges = bad.iter().map(|range| MapRangeDoc {
                offset_bytes: range.start_sectors * 512,
                len_bytes: range.length_sectors * 512,
            });
            Some(MapMemberDoc {
                path: member.name.clone(),
                bad: ranges.collect(),
            })
        });
        Ok(MapDoc {
            schema: SCHEMA,
            dirty_percent: map.dirty_percent,
            members: members.collect(),
        })
    }

    /// What an array has done since it was started.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn stats(&self, name: &str) -> Answer<StatsDoc> {
        let handle = self.handle(name)?;
        let (snapshot, _) = self.look(name, &handle).await?;
        let counted = &snapshot.counted;
        let kinds = KINDS.iter().map(|(_, word)| *word);
        let purposes = PURPOSES.iter().map(|(_, word)| *word);
        Ok(StatsDoc {
            schema: SCHEMA,
            clients: snapshot.clients as u64,
            failed: counted.failed,
            requests: counts(kinds, &counted.requests, &counted.bytes),
            member_io: counts(purposes, &counted.member_io, &counted.member_bytes),
        })
    }
}

fn counts(
    words: impl Iterator<Item = &'static str>,
    times: &[Histogram],
    bytes: &[u64],
) -> Vec<CountDoc> {
    let all = words.zip(times).zip(bytes);
    all.map(|((word, times), bytes)| CountDoc {
        kind: word.to_owned(),
        count: times.count(),
        bytes: *bytes,
        seconds: super::metrics::seconds(times.sum),
    })
    .collect()
}
