//! What the API server and kubectl ask an aggregated API about itself. The same for everybody, so no right is
//! needed: the API server asks it to know whether the collector is there at all.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::paths::{GROUP, RESOURCE, VERSION};

/// A document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// The API groups: one.
    Groups,
    /// The group.
    Group,
    /// The resources of its version: one.
    Resources,
    /// No schema: nothing of this API is an object that is written.
    OpenApi2,
    /// The same in the newer form.
    OpenApi3,
}

impl Document {
    /// What stands at `path`.
    pub fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/apis" => Self::Groups,
            "/apis/query.hearth.dev" => Self::Group,
            "/apis/query.hearth.dev/v1alpha1" => Self::Resources,
            "/openapi/v2" => Self::OpenApi2,
            "/openapi/v3" => Self::OpenApi3,
            _ => return None,
        })
    }

    /// Its text.
    pub fn json(self) -> Value {
        match self {
            Self::Groups => json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [group()] }),
            Self::Group => {
                let mut document = group();
                document["kind"] = "APIGroup".into();
                document["apiVersion"] = "v1".into();
                document
            }
            Self::Resources => json!({
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": format!("{GROUP}/{VERSION}"),
                "resources": [{
                    "name": RESOURCE,
                    "singularName": "profile",
                    "namespaced": true,
                    "kind": "Profile",
                    "verbs": ["get"],
                }],
            }),
            Self::OpenApi2 => json!({
                "swagger": "2.0",
                "info": { "title": "Hearth", "version": VERSION },
                "paths": {},
            }),
            Self::OpenApi3 => json!({ "paths": {} }),
        }
    }
}

impl IntoResponse for Document {
    fn into_response(self) -> Response {
        Json(self.json()).into_response()
    }
}

fn group() -> Value {
    let version = json!({ "groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION });
    json!({ "name": GROUP, "versions": [version], "preferredVersion": version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_group_and_the_version() {
        assert_eq!(Document::of(&format!("/apis/{GROUP}")), Some(Document::Group));
        assert_eq!(Document::of(&format!("/apis/{GROUP}/{VERSION}")), Some(Document::Resources));
        assert_eq!(Document::of("/apis/"), None);
    }
}
