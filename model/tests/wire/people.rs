//! Accounts and their people, what they may have, and whom we tell.

use berth_model::people::*;
use berth_model::quota::*;
use berth_model::webhook::*;
use berth_model::*;

use crate::golden;
use crate::samples::at;

#[test]
fn people_keep_their_wire_form() {
    let user = User {
        id: UserId(9),
        email: "mara@larkspur.example".into(),
        name: "Mara Lindqvist".into(),
        role: Role::Customer,
        created: at("2026-11-20T02:14:00Z"),
    };
    let account = Account { id: AccountId(8), name: "Larkspur Labs".into(), suspended: None };
    let project = Project { id: ProjectId(6), name: "production".into(), account };
    golden("session", &Session { user, projects: vec![project], expires: at("2026-12-20T02:14:00Z") });
    let token = Token {
        id: TokenId(1),
        name: "ci".into(),
        access: TokenAccess::Read,
        created: at("2026-11-20T02:14:00Z"),
        last_used: None,
        expires: Some(at("2027-11-20T02:14:00Z")),
    };
    golden("token_list", &TokenList { tokens: vec![token.clone()] });
    golden("token_created", &TokenCreated { token, secret: "x".repeat(64) });
    golden("sign_in", &SignIn { email: "mara@larkspur.example".into(), password: "correct horse".into() });
    golden(
        "sign_up",
        &SignUp {
            email: "mara@larkspur.example".into(),
            name: "Mara Lindqvist".into(),
            password: "correct horse".into(),
        },
    );
    golden("password_change", &PasswordChange { current_password: "a".into(), new_password: "b".into() });
    golden("token_create", &TokenCreate { name: "ci".into(), access: TokenAccess::ReadWrite, expires: None });
}

#[test]
fn limits_keep_their_wire_form() {
    let limit =
        Limit { kind: QuotaKind::MemoryMib, used: 512, limit: 1024, account_used: 1024, account_limit: 4096 };
    golden("limit_list", &LimitList { limits: vec![limit] });
    golden(
        "limit_request_create",
        &LimitRequestCreate { kind: QuotaKind::Servers, limit: 200, reason: "A cluster.".into() },
    );
    let request = LimitRequest {
        id: LimitRequestId(3),
        project: ProjectId(6),
        account: AccountId(8),
        kind: QuotaKind::Servers,
        limit: 200,
        reason: "A cluster.".into(),
        status: LimitRequestStatus::Granted,
        note: Some("Enjoy.".into()),
        created: at("2026-11-20T02:14:00Z"),
        answered: Some(at("2026-11-20T03:14:00Z")),
    };
    golden("limit_request", &LimitRequestReply { limit_request: request });
}

#[test]
fn webhooks_keep_their_wire_form() {
    let webhook = Webhook {
        id: WebhookId(4),
        name: "pager".into(),
        url: "https://example.org/hook".into(),
        kinds: vec!["action.error".into()],
        enabled: true,
        note: None,
        failing_since: None,
        created: at("2026-11-20T02:14:00Z"),
    };
    golden("webhook_created", &WebhookCreated { webhook, secret: "x".repeat(40) });
    let delivery = WebhookDelivery {
        id: WebhookDeliveryId(5),
        event: 41,
        kind: "server.deleted".into(),
        body: "{}".into(),
        status: DeliveryStatus::Pending,
        attempts: 1,
        next_attempt: Some(at("2026-11-20T02:14:05Z")),
        http_status: Some(502),
        error: Some("It answered 502; 2xx is expected.".into()),
        created: at("2026-11-20T02:14:00Z"),
        finished: None,
    };
    golden("webhook_delivery", &WebhookDeliveryReply { delivery });
}
