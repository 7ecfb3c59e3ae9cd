//! Settings of the connector that decide what its messages mean. Wrong ones are refused before anything is read: most of
//! them would change values or lose changes without a word.

use std::collections::BTreeMap;

use crate::config::Settings;
use crate::store::connect::Connect;
use crate::store::connector_config;
use crate::store::kafka;

/// Settings that must be what `platform connector apply` sets, each with what goes wrong otherwise.
const DECISIVE: &[(&str, &str)] = &[
    ("value.converter.schemas.enable", "messages carry their schema"),
    ("value.converter.replace.null.with.default", "a NULL becomes the column's default"),
    ("decimal.handling.mode", "numerics lose digits or their scale"),
    ("interval.handling.mode", "intervals lose months and days"),
    ("time.precision.mode", "times lose digits"),
    ("binary.handling.mode", "unchanged binary values become NULL"),
    ("skipped.operations", "TRUNCATE is not told"),
    ("unavailable.value.placeholder", "unchanged values are taken for texts"),
    ("publication.name", "another publication is followed"),
    ("slot.name", "another slot is followed"),
];

/// What is wrong with a connector's settings, and what to do; `None`: nothing that matters here.
pub(super) fn wrong(is: &BTreeMap<String, String>, must: &BTreeMap<String, String>, topic: &str) -> Option<String> {
    let mend = "run `platform connector apply`";
    if let Some(flattens) = is.iter().find(|(_, value)| value.ends_with("ExtractNewRecordState")) {
        return Some(format!("messages are flattened by {}; remove that transform: {mend}", flattens.0));
    }
    let routed = is.iter().any(|(key, value)| key.ends_with(".replacement") && value == topic);
    if !routed {
        return Some(format!("there is one topic a table, not the one topic {topic} in the order of the log; {mend}"));
    }
    for (key, consequence) in DECISIVE {
        let (there, wanted) = (is.get(*key), must.get(*key));
        if there != wanted {
            // Never their values: the placeholder is a secret of sorts.
            return Some(format!("its setting {key} differs, so {consequence}; {mend}"));
        }
    }
    let drops = is.keys().find(|key| key.starts_with("column."))?;
    Some(format!("its setting {drops} changes or leaves out values; remove it: {mend}"))
}

/// Looks at the running connector and at the topics.
pub(super) async fn check(
    settings: &Settings,
    placeholder: &str,
    topic_is_empty: bool,
) -> anyhow::Result<Option<String>> {
    let (pipeline, topic) = (&settings.sink.pipeline, &settings.sink.topic);
    let config = match Connect::new(&settings.connect) {
        Ok(connect) => connect.config(pipeline).await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    match config {
        Ok(Some(config)) => {
            let must = connector_config::of_pipeline(settings, placeholder)?;
            if let Some(wrong) = wrong(&config, &must, topic) {
                return Ok(Some(wrong));
            }
        }
        Ok(None) => {}
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(error, "the connector's settings cannot be checked");
        }
    }
    if !topic_is_empty {
        return Ok(None);
    }
    // Without a connector to ask, the topics tell.
    let names = kafka::topics(&settings.kafka).await?;
    let of_a_table = names.iter().find(|name| name.starts_with("platform.public.") && *name != topic);
    Ok(of_a_table.map(|name| {
        format!(
            "{topic} is empty and {name} is a topic of one table: route all to {topic}; run `platform connector apply`"
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right() -> BTreeMap<String, String> {
        let mut config: BTreeMap<String, String> =
            DECISIVE.iter().map(|(key, _)| ((*key).to_owned(), "right".to_owned())).collect();
        config.insert("transforms.route.replacement".into(), "platform.cdc".into());
        config
    }

    fn with(key: &str, value: &str) -> Option<String> {
        let mut config = right();
        config.insert(key.into(), value.into());
        wrong(&config, &right(), "platform.cdc")
    }

    #[test]
    fn what_would_damage_values_is_named() {
        assert_eq!(with("poll.interval.ms", "500"), None);
        for (key, value) in DECISIVE.iter().map(|(key, _)| (*key, "other")).chain([
            ("column.mask.with.0.chars", "public.people.name"),
            ("transforms.unwrap.type", "io.debezium.transforms.ExtractNewRecordState"),
        ]) {
            let text = with(key, value).unwrap_or_default();
            let setting = if key.ends_with(".type") { "transforms.unwrap.type" } else { key };
            assert!(text.contains(setting) && text.contains("connector apply"), "{text}");
        }
        let text = with("transforms.route.replacement", "platform.$1").unwrap_or_default();
        assert!(text.contains("one topic a table"), "{text}");
    }
}
