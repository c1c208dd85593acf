//! Long lists, a stretch at a time.

use axum::Json;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// Parameters of lists, for the table of routes.
pub const PARAMETERS: &[(&str, &str)] =
    &[("skip", "how many entries are left out at the beginning"), ("limit", "how many entries are given at most")];

/// What of a list is wanted; all of it without.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Paging {
    pub skip: usize,
    pub limit: Option<usize>,
}

impl Paging {
    /// The stretch, with the count of all entries in `X-Total-Count` and, when there are more, the address of the next
    /// stretch in `Link` (RFC 8288).
    pub fn answer<T: Serialize>(self, all: Vec<T>, asked: &Uri) -> Response {
        let total = all.len();
        let limit = self.limit.unwrap_or(usize::MAX).max(1);
        let stretch: Vec<T> = all.into_iter().skip(self.skip).take(limit).collect();
        let end = self.skip.saturating_add(stretch.len());
        let mut response = Json(stretch).into_response();
        response.headers_mut().insert("x-total-count", HeaderValue::from(total));
        if end < total && self.limit.is_some() {
            let link = format!("<{}>; rel=\"next\"", following(asked, end, limit));
            if let Ok(link) = HeaderValue::from_str(&link) {
                response.headers_mut().insert(header::LINK, link);
            }
        }
        response
    }
}

/// The same address with another beginning.
fn following(asked: &Uri, skip: usize, limit: usize) -> String {
    let kept = asked.query().unwrap_or_default().split('&').filter(|part| !part.is_empty());
    let kept = kept.filter(|part| !part.starts_with("skip=") && !part.starts_with("limit="));
    let query: Vec<String> =
        kept.map(str::to_owned).chain([format!("skip={skip}"), format!("limit={limit}")]).collect();
    format!("{}?{}", asked.path(), query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_given_in_stretches_that_lead_to_each_other() {
        let uri: Uri = "/api/v1/machines?state=managed&limit=2".parse().unwrap();
        let mut paging = Paging { skip: 0, limit: Some(2) };
        let first = paging.answer(vec![1, 2, 3, 4, 5], &uri);
        assert_eq!(first.headers()["x-total-count"], "5");
        assert_eq!(first.headers()["link"], "</api/v1/machines?state=managed&skip=2&limit=2>; rel=\"next\"");
        paging.skip = 4;
        assert!(paging.answer(vec![1, 2, 3, 4, 5], &uri).headers().get("link").is_none(), "the last one");
        assert!(Paging::default().answer(vec![1, 2], &uri).headers().get("link").is_none(), "all of it");
        let beyond = Paging { skip: usize::MAX, limit: Some(usize::MAX) };
        assert_eq!(beyond.answer(vec![1], &uri).headers()["x-total-count"], "1");
    }
}
