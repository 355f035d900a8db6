//! The API's description, for people and generators; `openapi.json` beside this file is the document itself.

use axum::http::header;
use axum::response::IntoResponse;

/// OpenAPI 3.0.
pub const DOCUMENT: &str = include_str!("openapi.json");

pub(crate) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_json_and_every_reference_leads_somewhere() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for part in DOCUMENT.split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
    }

    #[test]
    fn the_document_names_every_route() {
        let routes = include_str!("server.rs");
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let in_code: Vec<&str> =
            routes.split(".route(\"").skip(1).filter_map(|part| part.split('"').next()).collect();
        assert!(in_code.len() > 10);
        for route in in_code.iter().filter(|route| **route != "/metrics") {
            let known = paths.contains_key(*route) || paths.contains_key(&format!("/api/v1{route}"));
            assert!(known, "{route} is not described");
        }
        for path in paths.keys() {
            let known = in_code.iter().any(|route| path == route || *path == format!("/api/v1{route}"));
            assert!(known, "{path} is described but not served");
        }
    }
}
