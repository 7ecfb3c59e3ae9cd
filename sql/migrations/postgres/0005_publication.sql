-- A table is mirrored because it is in this publication: `alter publication platform add table …` adds one.
create publication platform for table public.sentiment_social, platform.heartbeat;
