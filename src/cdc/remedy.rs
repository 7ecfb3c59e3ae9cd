//! What an operator does about each reason to halt. Pure.

/// The command that ends a halt, by the reason's name.
pub(super) fn remedy(reason: &str) -> &'static str {
    match reason {
        "not-loaded" => "run `platform load`",
        "sequence-restarted"
        | "heartbeat-gap"
        | "log-changed"
        | "log-went-back"
        | "slot-lost"
        | "slot-moved"
        | "offset-out-of-range"
        | "topic-recreated" => {
            "run `platform load`: it copies every table, and the sink goes on behind the hole by itself"
        }
        "connector" => "run `platform connector apply`; the sink goes on by itself",
        "undecodable" => {
            "mend the connector's settings (`platform connector apply`) and run `platform sink resume`; if the message itself \
             is broken, run `platform load`, which goes on behind it"
        }
        "topic" => "make the topic anew with one partition and without transactions, then run `platform load`",
        "clickhouse" => {
            "mend what the detail names; it is tried again every ten seconds, and at once by `platform sink resume`"
        }
        _ => "mend what the detail names, then run `platform sink resume`",
    }
}

#[cfg(test)]
mod tests {
    use super::super::halt::Halt;
    use super::*;

    #[test]
    fn a_halt_says_the_command_that_ends_it() {
        for halt in
            [Halt::NotLoaded, Halt::LogChanged, Halt::SlotLost, Halt::OffsetOutOfRange(1), Halt::TopicRecreated(1)]
        {
            assert!(remedy(halt.name()).contains("platform load"), "{halt:?}");
        }
        assert!(remedy(Halt::ClickHouse(String::new()).name()).contains("platform sink resume"));
    }
}
