//! The OpenAPI 3.1 document: collected from the handlers, completed by the endpoints of the SQL files.

use actix_web::http::StatusCode;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{AdditionalProperties, SchemaType};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Content, ContentBuilder, HeaderBuilder, InfoBuilder, KnownFormat, LicenseBuilder, ObjectBuilder, OpenApi,
    OpenApiBuilder, PathItem, Ref, RefOr, Required, Response, ResponseBuilder, ResponsesBuilder, Schema, SchemaFormat,
    Type as JsonType,
};

use super::results::Format;
use crate::catalog::endpoint::Endpoint;
use crate::catalog::endpoint_parameter::{Parameter, Presence, Type};

const DESCRIPTION: &str = "Posts with their sentiment in PostgreSQL, analytics over the same posts in ClickHouse, which follows \
within about a second.\n\n\
**Read your writes.** Every write answers `X-Consistency-Token`. An analytics request that sends it back sees that write: with \
`Prefer: wait=5` it waits for it, without it is answered 503 `replica-behind` when the mirror is not there yet, and `pipeline-down` when it cannot come. Every analytics \
answer says how fresh it is (`X-Data-As-Of`, `X-Data-As-Of-LSN`, `X-Replication-Lag-Ms`).\n\n\
**Errors** are `application/problem+json` (RFC 9457) with a stable `code`. **Times** are RFC 3339 in UTC, ranges `[from, to)`. \
**Decimals** are strings, so that no reader rounds them. Unknown parameters and members are errors.\n\n\
**Limits.** Every key has a rate limit: `RateLimit-Policy` and `RateLimit` say how much is left, 429 comes with `Retry-After`. \
Answers are compressed for who accepts it, bodies may be (gzip, zstd). `Server-Timing` says where the time went, `X-Request-Id` is in \
every answer and in the log.";

/// What `If-None-Match` takes: `*`, or entity tags.
const ENTITY_TAGS: &str = "^(\\*|(W/)?\"[!#-~]+\"(, (W/)?\"[!#-~]+\")*)$";

/// A post's tag in the patterns of its operations, and with the coding that each may have.
const VERSION_TAG: &str = "\"[0-9]{1,18}\"";
const VERSION_TAG_IN_A_CODING: &str = "\"[0-9]{1,18}(-(br|deflate|gzip|zstd))?\"";

/// Groups of operations, in the order that people read them.
const TAGS: [(&str, &str); 8] = [
    ("posts", "Posts in PostgreSQL, the system of record"),
    ("analytics", "Questions to ClickHouse, one SQL file each"),
    ("statistics", "What was built day by day"),
    ("consistency", "From a write to a read that sees it"),
    ("pipeline", "How far the mirror is, what could not be applied, and asking the sink for something"),
    ("batch", "Runs of the batch half"),
    ("keys", "API keys, for callers with the scope admin"),
    ("operations", "For probes, monitors and tools; no key needed"),
];

/// The frame that the handlers' operations go into.
pub(super) fn frame() -> OpenApi {
    let mut openapi = OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("platform")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(DESCRIPTION))
                .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
                .build(),
        )
        .tags(Some(TAGS.map(|(name, description)| TagBuilder::new().name(name).description(Some(description)).build())))
        .build();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("pk_…")
        .description(Some(
            "An API key. Reading needs the scope `read`, changing `write`, keys and the pipeline `admin`.",
        ))
        .build();
    openapi.components.get_or_insert_default().add_security_scheme("api_key", SecurityScheme::Http(bearer));
    openapi
}

/// Adds what the handlers cannot know: keys for `/v1`, and one operation a SQL file.
pub(super) fn complete(mut openapi: OpenApi, endpoints: &[Endpoint]) -> OpenApi {
    refuse_unknown_members(&mut openapi);
    for (path, item) in &mut openapi.paths.paths {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            if path.starts_with("/v1/") && operation.security.is_none() {
                operation.security = Some(vec![SecurityRequirement::new("api_key", Vec::<String>::new())]);
            }
            add_common_problems(path, operation);
            for parameter in operation.parameters.iter_mut().flatten() {
                let RefOr::T(parameter) = parameter else { continue };
                parameter.schema = parameter.schema.take().map(without_null).map(with_codings);
            }
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response {
                    complete_response(status, response);
                }
            }
        }
    }
    for endpoint in endpoints {
        let path = format!("/v1/analytics/{}", endpoint.name);
        let mut item = analytics(endpoint);
        if let Some(operation) = &mut item.get {
            add_common_problems(&path, operation);
        }
        openapi.paths.paths.insert(path, item);
    }
    openapi
}

/// Bodies whose unknown members are refused.
const STRICT: [&str; 3] = ["PostInput", "PostPatch", "KeyInput"];

fn refuse_unknown_members(openapi: &mut OpenApi) {
    for (name, schema) in openapi.components.iter_mut().flat_map(|components| &mut components.schemas) {
        if let (true, RefOr::T(Schema::Object(object))) = (STRICT.contains(&name.as_str()), schema) {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
    }
}

/// A parameter that is optional is absent, never null: there is no null in a query or a header.
fn without_null(schema: RefOr<Schema>) -> RefOr<Schema> {
    match schema {
        RefOr::T(Schema::Object(mut object)) => {
            if let SchemaType::Array(kinds) = &object.schema_type {
                let kinds: Vec<JsonType> = kinds.iter().filter(|kind| **kind != JsonType::Null).cloned().collect();
                object.schema_type = match kinds.as_slice() {
                    [one] => SchemaType::Type(one.clone()),
                    _ => SchemaType::Array(kinds),
                };
            }
            RefOr::T(Schema::Object(object))
        }
        RefOr::T(Schema::OneOf(mut one)) => {
            let null = |item: &RefOr<Schema>| matches!(item, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(JsonType::Null));
            one.items.retain(|item| !null(item));
            match one.items.pop() {
                Some(only) if one.items.is_empty() => only,
                Some(last) => {
                    one.items.push(last);
                    RefOr::T(Schema::OneOf(one))
                }
                None => RefOr::T(Schema::OneOf(one)),
            }
        }
        other => other,
    }
}

/// The tag of a post is its version, and the coding in which it came (`entity_tags.rs`).
fn with_codings(mut schema: RefOr<Schema>) -> RefOr<Schema> {
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        let tags = |pattern: String| pattern.replace(VERSION_TAG, VERSION_TAG_IN_A_CODING);
        object.pattern = object.pattern.take().map(tags);
    }
    schema
}

/// What the envelope, the key and the reading of a body can answer to every request, beside what the operation says itself.
fn add_common_problems(path: &str, operation: &mut Operation) {
    let has_key = operation
        .security
        .as_ref()
        .is_some_and(|security| security.iter().any(|one| *one != SecurityRequirement::default()));
    let has_body = operation.request_body.is_some();
    let common = [
        ("408", has_body, "request-timeout"),
        ("413", has_body, "body-too-large"),
        ("415", has_body, "unsupported-media-type"),
        ("414", true, "uri-too-long"),
        ("429", has_key, "rate-limited; `Retry-After` says when to ask again"),
        ("503", path.starts_with("/v1/"), "overloaded"),
    ];
    for (status, applies, description) in common {
        if applies && !operation.responses.responses.contains_key(status) {
            operation.responses.responses.insert(status.to_owned(), RefOr::T(problem(description)));
        }
    }
}

fn problem(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name("Problem")))).build();
    ResponseBuilder::new().description(description).content("application/problem+json", content).build()
}

/// The media type of problems, and a description where the handler gives none.
fn complete_response(status: &str, response: &mut Response) {
    let is_problem = |content: &RefOr<Content>| match content {
        RefOr::T(content) => content.schema == Some(RefOr::Ref(Ref::from_schema_name("Problem"))),
        RefOr::Ref(_) => false,
    };
    if response.content.get("application/json").is_some_and(is_problem)
        && let Some(content) = response.content.shift_remove("application/json")
    {
        response.content.insert("application/problem+json".to_owned(), content);
    }
    if response.description.is_empty() {
        let reason = status.parse().ok().and_then(|status| StatusCode::from_u16(status).ok()?.canonical_reason());
        response.description = reason.unwrap_or("An answer").to_owned();
    }
}

fn analytics(endpoint: &Endpoint) -> PathItem {
    let mut operation = OperationBuilder::new()
        .operation_id(Some(format!("get_analytics_{}", endpoint.name.replace('-', "_"))))
        .tag("analytics")
        .summary(Some(endpoint.summary.clone()))
        .description((!endpoint.description.is_empty()).then(|| endpoint.description.clone()))
        .security(SecurityRequirement::new("api_key", Vec::<String>::new()))
        .responses(responses());
    for parameter in &endpoint.parameters {
        operation = operation.parameter(query_parameter(parameter));
    }
    let formats = ObjectBuilder::new().schema_type(JsonType::String).enum_values(Some(Format::ALL.map(Format::word)));
    operation = operation
        .parameter(parameter("format", ParameterIn::Query, "Form of the answer; wins over Accept", formats.build()))
        .parameter(parameter(
            "X-Consistency-Token",
            ParameterIn::Header,
            "Of a write that the answer must have seen",
            text(),
        ))
        .parameter(parameter(
            "Prefer",
            ParameterIn::Header,
            "wait=N: wait up to N seconds (at most 30) for the token; handling=lenient: take what there is",
            text(),
        ))
        .parameter(parameter(
            "If-None-Match",
            ParameterIn::Header,
            "ETag of an answer: 304 while no row has changed",
            ObjectBuilder::new().schema_type(JsonType::String).pattern(Some(ENTITY_TAGS)).build(),
        ))
        .parameter(parameter("Cache-Control", ParameterIn::Header, "no-cache: compute the answer anew", text()));
    PathItem::new(HttpMethod::Get, operation.build())
}

fn parameter(
    name: &str,
    place: ParameterIn,
    description: &str,
    schema: utoipa::openapi::Object,
) -> utoipa::openapi::path::Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(Schema::Object(schema)))
        .build()
}

fn text() -> utoipa::openapi::Object {
    ObjectBuilder::new().schema_type(JsonType::String).build()
}

fn query_parameter(described: &Parameter) -> utoipa::openapi::path::Parameter {
    let mut documented = parameter(&described.name, ParameterIn::Query, &described.description, schema(described));
    if described.presence == Presence::Required {
        documented.required = Required::True;
    }
    documented
}

fn schema(parameter: &Parameter) -> utoipa::openapi::Object {
    let object = ObjectBuilder::new();
    let object = match &parameter.kind {
        Type::Date => object.schema_type(JsonType::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Date))),
        Type::DateTime => object
            .schema_type(JsonType::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .description(Some("RFC 3339 time, or a date: its midnight in UTC")),
        Type::String => object
            .schema_type(JsonType::String)
            .max_length(Some(parameter.max.and_then(|max| usize::try_from(max).ok()).unwrap_or(256))),
        Type::Enum(words) => object.schema_type(JsonType::String).enum_values(Some(words.clone())),
        Type::UInt32 | Type::Int64 => {
            let format = if parameter.kind == Type::UInt32 { KnownFormat::Int32 } else { KnownFormat::Int64 };
            let least = if parameter.kind == Type::UInt32 { Some(0) } else { None };
            object
                .schema_type(JsonType::Integer)
                .format((parameter.kind == Type::Int64).then_some(SchemaFormat::KnownFormat(format)))
                .minimum(parameter.min.or(least))
                .maximum(parameter.max)
        }
    };
    let default = match &parameter.presence {
        Presence::Default(value) if parameter.kind.is_number() => serde_json::from_str(value).ok(),
        Presence::Default(value) => Some(serde_json::Value::String(value.clone())),
        Presence::Required | Presence::Optional => None,
    };
    object.default(default).build()
}

fn responses() -> utoipa::openapi::Responses {
    let mut ok = ResponseBuilder::new().description("The rows").content(
        Format::Json.media_type(),
        ContentBuilder::new().schema(Some(Ref::from_schema_name("ResultSet"))).build(),
    );
    for format in [Format::Ndjson, Format::Csv] {
        ok = ok.content(format.media_type(), ContentBuilder::new().schema(Some(Schema::Object(text()))).build());
    }
    for (name, description) in [
        ("X-Data-As-Of", "Commit time of the newest change that the answer has seen"),
        ("X-Data-As-Of-LSN", "Everything committed below this position of PostgreSQL's log is in the answer"),
        ("X-Replication-Lag-Ms", "How old that is"),
        ("X-Data-Stale", "Only `true`: the token's write is not in the answer, which `handling=lenient` allows"),
        ("ETag", "Another one as soon as a row of the tables changes; not of answers that depend on the moment"),
        ("Cache-Status", "RFC 9211: whether the answer was kept, or shared with others"),
        ("X-Data-Parked-Rows", "Only when there are some: rows that could not be applied, which the answer lacks"),
    ] {
        let header = HeaderBuilder::new().schema(Some(Schema::Object(text()))).description(Some(description)).build();
        ok = ok.header(name, header);
    }
    let mut responses = ResponsesBuilder::new().response("200", ok.build());
    responses = responses.response("304", ResponseBuilder::new().description("No row has changed").build());
    for (status, description) in [
        ("400", "invalid-parameters or invalid-consistency-token"),
        ("401", "unauthorized"),
        ("403", "forbidden"),
        ("406", "not-acceptable"),
        ("409", "other-log"),
        ("422", "result-too-large"),
        ("503", "replica-behind, pipeline-down, table-unavailable, database-unavailable or overloaded"),
        ("504", "timeout"),
    ] {
        responses = responses.response(status, problem(description));
    }
    responses.build()
}
