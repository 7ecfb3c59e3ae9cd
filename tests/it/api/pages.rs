//! Pages for people: they work offline, ask no other host and run no inline script.

use super::Api;

/// What an HTML page loads or links to.
fn references(html: &str) -> Vec<&str> {
    let attributes = ["src=\"", "href=\"", "action=\"", "content=\"http", "url(", "@import"];
    let found = attributes.iter().flat_map(|attribute| html.split(attribute).skip(1));
    found.map(|rest| rest.split(['"', ')', ';']).next().unwrap_or_default()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_page_shows_the_parts_and_loads_nothing_from_elsewhere() {
    let api = Api::start().await;
    let page = api.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    for part in ["PostgreSQL", "ClickHouse", "Sink", "Connector", "/docs/", "/openapi.json", "/readyz", "/metrics"] {
        assert!(page.body.contains(part), "{part}");
    }
    assert!(
        !page.body.contains("<script") && !page.body.contains("style=") && !page.body.contains(" onclick"),
        "nothing inline"
    );
    for reference in references(&page.body) {
        assert!(reference.starts_with('/') && !reference.starts_with("//"), "{reference}");
        let target = api.get(reference).await;
        assert!(target.status < 400, "{reference}: {}", target.status);
        if reference.ends_with(".css") {
            assert_eq!(target.header("content-type"), Some("text/css; charset=utf-8"));
            assert!(references(&target.body).is_empty() && !target.body.contains("http"), "{reference}");
        }
    }
    assert_eq!(page.header("content-security-policy").map(|policy| policy.contains("script")), Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_viewer_works_offline() {
    let api = Api::start().await;
    let redirect = api.get("/docs").await;
    assert_eq!((redirect.status, redirect.header("location")), (308, Some("/docs/")));
    let page = api.get("/docs/").await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains("script-src 'self';") && policy.contains("connect-src 'self'"), "{policy}");
    let mut files = Vec::new();
    for reference in references(&page.body) {
        assert!(!reference.contains("//"), "{reference}");
        files.push(reference.trim_start_matches("./").to_owned());
    }
    assert!(files.iter().any(|file| file == "swagger-initializer.js"), "{files:?}");
    for file in &files {
        let answer = api.request(reqwest::Method::GET, &format!("/docs/{file}")).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{file}");
        let kind = answer.headers()["content-type"].to_str().expect("a text").to_owned();
        let expected = if file.ends_with("js") {
            "javascript"
        } else if file.ends_with("css") {
            "css"
        } else {
            "image/png"
        };
        assert!(kind.contains(expected), "{file}: {kind}");
    }
    assert!(page.body.matches("<script").count() == page.body.matches("<script src=").count(), "no inline script");
    let start = api.get("/docs/swagger-initializer.js").await;
    assert!(start.body.contains("\"/openapi.json\""), "{}", start.body);
    assert!(
        start.body.contains("\"validatorUrl\": \"none\""),
        "or the document goes to a public validator: {}",
        start.body
    );
    assert!(!start.body.contains("http"), "{}", start.body);
    let style = api.get("/docs/swagger-ui.css").await;
    assert!(
        !style.body.contains("@import") && !style.body.contains("url(http") && !style.body.contains("url(//"),
        "no foreign fonts"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_has_its_page() {
    let api = Api::start().await;
    let list = api.get("/problems").await;
    let links: Vec<&str> = references(&list.body).into_iter().filter(|link| link.starts_with("/problems/")).collect();
    assert!(links.len() > 20, "{links:?}");
    for link in links {
        let page = api.get(link).await;
        assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")), "{link}");
    }
}
