//! One run: random steps of everybody, then peace, then the verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::{RngExt as _, SeedableRng as _};

use super::super::halt::Halt;
use super::bug::Bug;
use super::database::Database;
use super::faults::{Faults, Rng, happens};
use super::load::{self, Order};
use super::row::TABLES;
use super::sink::Sink;
use super::statistics;
use super::step::{Work, go_on};
use super::topic::Topic;
use super::warehouse::Warehouse;
use super::world::{Shared, World};
use crate::domain::Version;
use crate::store::checkpoint::Checkpoint;

/// Steps of a run before peace.
const STEPS: u32 = 1_000;
/// Steps after which peace must have brought equality.
const PEACE: u32 = 20_000;

/// How often what happened: a simulation in which something never happens proves nothing about it.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Seen {
    pub(super) records: usize,
    pub(super) crashes: usize,
    pub(super) twins: usize,
    pub(super) loads: usize,
    pub(super) crashed_loads: usize,
    pub(super) rewinds: usize,
    pub(super) resends: usize,
    pub(super) holes: usize,
    pub(super) halts: usize,
    pub(super) letters: usize,
    pub(super) builds: usize,
}

impl Seen {
    /// Adds another run's.
    pub(super) fn add(&mut self, other: Self) {
        self.records += other.records;
        self.crashes += other.crashes;
        self.twins += other.twins;
        self.loads += other.loads;
        self.crashed_loads += other.crashed_loads;
        self.rewinds += other.rewinds;
        self.resends += other.resends;
        self.holes += other.holes;
        self.halts += other.halts;
        self.letters += other.letters;
        self.builds += other.builds;
    }

    /// Whether everything happened often.
    pub(super) fn is_rich(&self) -> bool {
        let Self { records, crashes, twins, loads, crashed_loads, rewinds, resends, holes, halts, letters, builds } =
            *self;
        let all = [records, crashes, twins, loads, crashed_loads, rewinds, resends, holes, halts, letters, builds];
        all.iter().all(|count| *count >= 100)
    }
}

struct Run {
    shared: Shared,
    rng: Rng,
    faults: Faults,
    sink: Option<Sink>,
    /// Sinks that have lost the lease and do not know it.
    twins: Vec<Sink>,
    load: Option<Work<()>>,
    /// Whether a sink holds the lease: one that has halted does not.
    leased: Arc<AtomicBool>,
    seen: Seen,
}

/// Runs a seed, with a planted bug or none.
///
/// # Errors
/// What was wrong.
pub(super) fn run(seed: u64, bug: Option<Bug>) -> Result<Seen, String> {
    let mut rng = Rng::seed_from_u64(seed);
    let faults = Faults::draw(&mut rng);
    let mut warehouse = Warehouse::default();
    warehouse.by_arrival = bug == Some(Bug::LastArrivalWins);
    let world = World {
        database: Database::default(),
        topic: Topic::default(),
        warehouse,
        faults: faults.clone(),
        rng: Rng::seed_from_u64(!seed),
        bug,
        first_load: 0,
        wrong: None,
    };
    let shared = Shared::new(world);
    let mut run = Run {
        shared,
        rng,
        faults,
        sink: None,
        twins: Vec::new(),
        load: None,
        leased: Arc::default(),
        seen: Seen::default(),
    };
    for _ in 0..30 {
        run.database();
    }
    for _ in 0..STEPS {
        run.step();
    }
    run.peace();
    run.verdict()?;
    // Everything once more from the first record changes nothing.
    run.rewind_to(Some(0));
    run.peace();
    run.verdict()?;
    Ok(run.seen)
}

impl Run {
    fn database(&mut self) {
        let world = &mut *self.shared.world();
        world.database.step(&mut self.rng, &self.faults);
        if self.rng.random_ratio(1, 12) {
            world.database.beat(&mut self.rng);
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..20) {
            0..6 => self.database(),
            6..9 => self.connector(),
            9 | 10 => self.go_on_with_load(),
            11 => self.shared.world().arrive_late(),
            12 => self.twin(),
            13 | 14 => statistics::go_on(&mut self.shared.world().warehouse, &mut self.rng),
            _ => self.go_on_with_sink(),
        }
        self.operator();
        self.misfortune();
    }

    fn connector(&mut self) {
        let count = self.rng.random_range(1..8);
        let world = &mut *self.shared.world();
        world.topic.send(&world.database, count);
    }

    fn go_on_with_load(&mut self) {
        if self.load.as_mut().and_then(go_on).is_some() {
            self.load = None;
            self.seen.loads += 1;
        }
    }

    fn go_on_with_sink(&mut self) {
        let newest = self.shared.world().warehouse.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.term);
        match &mut self.sink {
            None => self.sink = Sink::start(&self.shared),
            // A load or a rewind has moved the checkpoint.
            Some(sink) if sink.term < newest => self.sink = None,
            Some(sink) => {
                let before = sink.halt.is_some();
                sink.step();
                self.seen.halts += usize::from(sink.halt.is_some() && !before);
                let wrong = match (&sink.halt, &sink.ended) {
                    (_, Some(stop)) => Some(format!("the writer has ended: {stop:?}")),
                    (None | Some(Halt::HeartbeatGap { .. }), None) => None,
                    (Some(halt), None) => Some(format!("halted: {halt}")),
                };
                if let Some(wrong) = wrong {
                    self.shared.world().wrong(wrong);
                }
            }
        }
        let holds = self.sink.as_ref().is_some_and(|sink| sink.halt.is_none());
        self.leased.store(holds, Ordering::SeqCst);
    }

    /// A sink that wakes up without its lease goes on for a while.
    fn twin(&mut self) {
        if self.twins.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.twins.len());
        if self.rng.random_ratio(1, 25) {
            self.twins.swap_remove(at);
        } else {
            self.twins[at].step();
        }
    }

    /// Whoever watches: loads first, loads again after a halt or a lost slot, and sometimes for no reason.
    fn operator(&mut self) {
        if self.load.is_some() {
            return;
        }
        let lost = {
            let world = self.shared.world();
            world.warehouse.checkpoint.is_none() || !world.database.slot
        };
        let halted = self.sink.as_ref().is_some_and(|sink| sink.halt.is_some() && sink.is_done());
        if lost || halted {
            if self.rng.random_ratio(1, 20) {
                self.begin_load(vec![0, 1], true);
            }
        } else if happens(&mut self.rng, self.faults.loads) {
            let (tables, all) = match self.rng.random_range(0..3) {
                0 => (vec![0], false),
                1 => (vec![1], false),
                _ => (vec![0, 1], true),
            };
            self.begin_load(tables, all);
        }
    }

    fn begin_load(&mut self, tables: Vec<usize>, all: bool) {
        let leased = Arc::clone(&self.leased);
        let leased = move || leased.load(Ordering::SeqCst);
        self.load = Some(load::begin(self.shared.clone(), Order { tables, all }, leased));
    }

    fn misfortune(&mut self) {
        let faults = self.faults.clone();
        if happens(&mut self.rng, faults.crashes) && self.sink.take().is_some() {
            self.seen.crashes += 1;
        }
        if happens(&mut self.rng, faults.twins) && self.twins.len() < 3 {
            let woken = self.sink.take();
            self.seen.twins += usize::from(woken.is_some());
            self.twins.extend(woken);
        }
        if happens(&mut self.rng, faults.crashed_loads) && self.load.take().is_some() {
            self.shared.world().database.shared.clear();
            self.seen.crashed_loads += 1;
        }
        if happens(&mut self.rng, faults.rewinds) {
            self.rewind_to(None);
            self.seen.rewinds += 1;
        }
        let world = &mut *self.shared.world();
        if happens(&mut self.rng, faults.resends) {
            world.topic.send_again(&mut self.rng);
            self.seen.resends += 1;
        }
        if happens(&mut self.rng, faults.foreign_snapshots) {
            let table = self.rng.random_range(0..TABLES.len());
            world.topic.send_snapshot(&world.database, table);
        }
        if self.load.is_none() && world.database.slot && happens(&mut self.rng, faults.holes) {
            world.database.lose_slot(&mut self.rng);
            for _ in 0..self.rng.random_range(0..20) {
                world.database.step(&mut self.rng, &self.faults);
            }
            // A hole that nobody but the sink can see.
            if self.rng.random_ratio(2, 3) {
                world.database.make_slot(false, &mut self.rng);
            }
            self.seen.holes += 1;
        }
    }

    /// The topic is read again from an earlier offset, or a drawn one.
    fn rewind_to(&mut self, offset: Option<i64>) {
        let world = &mut *self.shared.world();
        let Some(newest) = world.warehouse.checkpoint.clone() else { return };
        let next_offset = offset.unwrap_or_else(|| self.rng.random_range(0..=newest.next_offset));
        let again = u64::try_from(newest.next_offset - next_offset).expect("it goes back");
        let checkpoint = load::at(newest.term + 2, newest.batch.saturating_sub(again), next_offset);
        let (watermark, heartbeat) = (newest.watermark, newest.heartbeat);
        let number = world.warehouse.statistics.next_number(Some(&newest));
        (0..TABLES.len()).for_each(|table| world.warehouse.statistics.mark_whole(table, number));
        world.warehouse.apply(super::warehouse::Effect::Checkpoint(Checkpoint { watermark, heartbeat, ..checkpoint }));
    }

    /// Nothing goes wrong any more, what is late arrives, and everybody comes to an end.
    fn peace(&mut self) {
        {
            let world = &mut *self.shared.world();
            world.faults.heal();
            world.database.finish(&mut self.rng);
            if world.database.slot {
                world.database.beat(&mut self.rng);
            }
        }
        for _ in 0..200 {
            self.twin();
        }
        self.twins.clear();
        for _ in 0..PEACE {
            {
                let world = &mut *self.shared.world();
                world.arrive_late();
                world.topic.send(&world.database, 20);
            }
            self.go_on_with_load();
            self.go_on_with_sink();
            if let Some(sink) = &mut self.sink {
                sink.seal();
            }
            if self.load.is_none() && self.is_at_peace() {
                return;
            }
            self.operator_at_the_end();
        }
        self.shared.world().wrong("there is no end".into());
    }

    fn operator_at_the_end(&mut self) {
        let (slot, started, loading) = {
            let world = self.shared.world();
            (world.database.slot, world.warehouse.checkpoint.is_some(), world.warehouse.loading)
        };
        let halted = self.sink.as_ref().is_some_and(|sink| sink.halt.is_some() && sink.is_done());
        if self.load.is_some() {
            return;
        }
        if !slot || !started || halted {
            self.begin_load(vec![0, 1], true);
        } else if loading.contains(&true) {
            // A load that has died is run again.
            self.begin_load((0..TABLES.len()).filter(|table| loading[*table]).collect(), false);
        }
    }

    fn is_at_peace(&self) -> bool {
        let done = self.sink.as_ref().is_some_and(|sink| sink.halt.is_none() && sink.is_done());
        let world = self.shared.world();
        let newest = world.warehouse.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.term);
        done && world.database.slot
            && world.warehouse.late.is_empty()
            && !world.warehouse.loading.contains(&true)
            && world.topic.is_complete(&world.database)
            && self.sink.as_ref().is_some_and(|sink| sink.term >= newest)
    }

    /// What the view shows is what the tables hold, but for parked rows, each of which has its letter.
    fn verdict(&mut self) -> Result<(), String> {
        let world = &*self.shared.world();
        self.seen.records = world.topic.records.len();
        self.seen.letters = world.warehouse.letters.len();
        self.seen.builds = world.warehouse.statistics.builds;
        if let Some(wrong) = &world.wrong {
            return Err(wrong.clone());
        }
        if let Some(stale) = statistics::stale(&world.warehouse) {
            return Err(format!("a day that counts as fresh: {stale}"));
        }
        for (at, table) in TABLES.iter().enumerate() {
            let shown = world.warehouse.shown(at);
            let name = table.name();
            for (id, row) in &world.database.visible[at] {
                let there = shown.get(id).copied();
                if row.is_storable() && there != Some(&row.cells()) {
                    let stored = world.warehouse.rows[at].get(id);
                    let floor = world.warehouse.floors[at];
                    return Err(format!("{name}: {row:?} is shown as {there:?}; stored {stored:?}, floor {floor:?}"));
                }
                if !row.is_storable() {
                    let floor = world.warehouse.floors[at];
                    let stored = world.warehouse.rows[at].get(id).map_or(Version::ZERO, |stored| stored.version);
                    let mut letters = world.warehouse.letters.values();
                    if !letters.any(|(table, version)| *table == at && *version >= floor.max(stored)) {
                        return Err(format!("{name}: {row:?} is in no letter"));
                    }
                    if there.is_some_and(|cells| !world.database.was(at, *id, cells)) {
                        return Err(format!("{name}: key {id} shows what it never was"));
                    }
                }
            }
            if let Some(ghost) = shown.keys().find(|id| !world.database.visible[at].contains_key(id)) {
                return Err(format!(
                    "{name}: key {ghost} is shown and gone; {:?}",
                    world.warehouse.rows[at].get(ghost)
                ));
            }
        }
        Ok(())
    }
}
