//! Who tries an operation, and what they must be told.

use std::collections::BTreeSet;

use berth_model::people::TokenAccess;
use http::{Method, StatusCode};
use serde_json::Value;

use super::table::{About, Case, For};
use crate::support::{Berth, Client, Person, Reply};

/// Who tries.
pub struct People {
    pub stranger: Client,
    pub right: Person,
    pub reads: Client,
    pub writes: Client,
    pub other: Person,
    pub other_writes: Client,
    /// A token of another project in the account of the right one.
    pub sibling: Client,
    pub staff: Person,
    pub owner: Person,
}

impl People {
    pub async fn new(berth: &Berth) -> Self {
        let (right, other) = (berth.customer().await, berth.other_customer().await);
        Self {
            stranger: berth.stranger(),
            reads: right.token(TokenAccess::Read).await,
            writes: right.token(TokenAccess::ReadWrite).await,
            other_writes: other.token(TokenAccess::ReadWrite).await,
            sibling: right.sibling(TokenAccess::ReadWrite).await,
            right,
            other,
            staff: berth.staff().await,
            owner: berth.owner().await,
        }
    }
}

impl Case {
    async fn tried_by(&self, client: &Client, method: &Method) -> Reply {
        client.send(method.clone(), &self.path, self.body.clone()).await
    }

    /// Asserts that `client` is answered with this status and code.
    async fn refuses(&self, client: &Client, method: &Method, who: &str, status: u16, code: &str) {
        let reply = self.tried_by(client, method).await;
        let said = (reply.status.as_u16(), reply.code());
        assert_eq!(said, (status, code.to_owned()), "{} tried by {who}: {}", self.operation, reply.text);
    }

    /// Asserts that `client` may; whether it works out is for other tests.
    async fn admits(&self, client: &Client, method: &Method, who: &str) {
        let reply = self.tried_by(client, method).await;
        let is_refused =
            [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND].contains(&reply.status);
        let is_broken = reply.status.is_server_error();
        assert!(
            !is_refused && !is_broken,
            "{} tried by {who}: {} {}",
            self.operation,
            reply.status,
            reply.text
        );
    }

    pub async fn wrong_ones(&self, method: &Method, people: &People) {
        let is_write = !matches!(*method, Method::GET);
        if self.of == For::Everybody {
            let reply = self.tried_by(&people.stranger, method).await;
            assert!(reply.status.is_client_error(), "{} tried with nothing: {}", self.operation, reply.text);
            return;
        }
        self.refuses(&people.stranger, method, "a stranger", 401, "unauthorized").await;
        let forged = people.stranger.clone().with_token(&"x".repeat(64));
        self.refuses(&forged, method, "a forged token", 401, "unauthorized").await;
        let forged = people.stranger.clone().with_session("0123456789abcdef");
        self.refuses(&forged, method, "a forged session", 401, "unauthorized").await;
        if is_write {
            let elsewhere = people.right.client().clone().with("origin", "https://evil.example");
            self.refuses(&elsewhere, method, "another site's page", 403, "forbidden").await;
            let nowhere = people.right.client().clone().without("origin");
            self.refuses(&nowhere, method, "a session from nowhere", 403, "forbidden").await;
        }
        match self.of {
            For::Everybody => {}
            For::Project | For::ProjectBySession => {
                let theirs = people.right.project().to_string();
                let intruder = people.other.client().clone().with("berth-project", &theirs);
                self.refuses(&intruder, method, "an intruder", 404, "not_found").await;
                if self.about == About::One {
                    self.refuses(people.other.client(), method, "another customer", 404, "not_found").await;
                }
            }
            For::SignedIn => {}
            For::Staff | For::Owner => {
                self.refuses(people.right.client(), method, "a customer", 403, "forbidden").await;
            }
        }
        match self.of {
            For::Project if is_write => {
                self.refuses(&people.reads, method, "a reading token", 403, "token_readonly").await;
            }
            For::Project | For::Everybody => {}
            For::ProjectBySession | For::SignedIn | For::Staff | For::Owner => {
                self.refuses(&people.writes, method, "a token", 403, "forbidden").await;
            }
        }
        if self.of == For::Project && self.about == About::One {
            self.refuses(&people.other_writes, method, "another's token", 404, "not_found").await;
        }
        if matches!(self.of, For::Project | For::ProjectBySession) {
            self.another_project(method, people).await;
        }
        if self.of == For::Owner {
            self.refuses(people.staff.client(), method, "staff", 403, "forbidden").await;
        }
    }

    /// Another project of the same account has nothing to do with this one's things.
    async fn another_project(&self, method: &Method, people: &People) {
        match (self.of, self.about) {
            (For::ProjectBySession, _) => {
                self.refuses(&people.sibling, method, "another project's token", 403, "forbidden").await;
            }
            (_, About::One) => {
                self.refuses(&people.sibling, method, "another project's token", 404, "not_found").await;
            }
            (_, About::Shared) => self.admits(&people.sibling, method, "another project's token").await,
            (_, About::Project) => {
                let theirs = self.tried_by(&people.sibling, method).await;
                let said = "tried by another project's token";
                assert!(!theirs.status.is_server_error(), "{} {said}: {}", self.operation, theirs.text);
                if *method == Method::GET && theirs.status == 200 {
                    let ours = ids(&self.tried_by(&people.writes, method).await.json());
                    let shown: Vec<_> = ids(&theirs.json()).intersection(&ours).copied().collect();
                    assert!(shown.is_empty(), "{} {said} shows {shown:?}", self.operation);
                }
            }
        }
    }

    /// While the account is suspended, everything can be read, and nothing written.
    pub async fn suspended_ones(&self, method: &Method, people: &People) {
        let is_write = !matches!(*method, Method::GET);
        let session = people.right.client();
        match self.of {
            For::Project if is_write => {
                self.refuses(&people.writes, method, "a suspended account's token", 403, "forbidden").await;
                self.refuses(session, method, "a suspended account", 403, "forbidden").await;
            }
            For::Project => {
                self.admits(&people.reads, method, "a suspended account's token").await;
                self.admits(session, method, "a suspended account").await;
            }
            For::ProjectBySession if is_write => {
                self.refuses(session, method, "a suspended account", 403, "forbidden").await;
            }
            For::ProjectBySession => self.admits(session, method, "a suspended account").await,
            For::Everybody | For::SignedIn | For::Staff | For::Owner => {}
        }
    }

    pub async fn right_ones(&self, method: &Method, people: &People) {
        match self.of {
            For::Everybody => {}
            For::Project => {
                if *method == Method::GET {
                    self.admits(&people.reads, method, "a reading token").await;
                    self.admits(people.right.client(), method, "the right session").await;
                }
                self.admits(&people.writes, method, "a writing token").await;
            }
            For::ProjectBySession | For::SignedIn => {
                self.admits(people.right.client(), method, "the right one").await;
            }
            For::Staff => {
                self.admits(people.staff.client(), method, "staff").await;
                self.admits(people.owner.client(), method, "the owner").await;
            }
            For::Owner => self.admits(people.owner.client(), method, "the owner").await,
        }
    }
}

/// The numbers of the things in a list: `{"servers": [{"id": 7}]}`.
fn ids(list: &Value) -> BTreeSet<i64> {
    let lists = list.as_object().into_iter().flat_map(|object| object.values()).filter_map(Value::as_array);
    lists.flatten().filter_map(|thing| thing["id"].as_i64()).collect()
}
