//! The order of a group's targets, as several workers find it.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue};
use shared::deployment::Failure;
use shared::resource::{Cost, DirectModel, Resource, RoutingTarget};
use shared::update::Change;

use super::*;

const NOW: u64 = 1_800_000_000_000;

struct World {
    tables: Tables,
    counters: Counters,
    workers: [Groups; 2],
    group: Rc<Model>,
}

fn target(model: &str) -> RoutingTarget {
    RoutingTarget { model: model.to_owned(), weight: 1, ..RoutingTarget::default() }
}

fn world(routing: Routing) -> World {
    let mut tables = Tables::default();
    let direct = |name: &str, cost| {
        let input_per_1k = cost;
        let cost = Some(Cost { input_per_1k, output_per_1k: 1.0 });
        Model {
            id: format!("id-{name}"),
            display_name: name.to_owned(),
            kind: ModelKind::Direct(Box::new(DirectModel { cost, ..DirectModel::default() })),
            ..Model::default()
        }
    };
    let models =
        [direct("a", 3.0), direct("b", 1.0), direct("c", 2.0), direct("wild/*", 9.0)].into_iter();
    let group = Model {
        id: "id-g".to_owned(),
        display_name: "g".to_owned(),
        kind: ModelKind::Routing(Box::new(routing)),
        ..Model::default()
    };
    let changes =
        models.chain([group]).map(|model| Ok(Change::Put(Box::new(Resource::Model(model)))));
    tables.apply(true, changes).unwrap();
    let group = tables.model("g").unwrap().model;
    World { tables, counters: Counters::private(), workers: Default::default(), group }
}

impl World {
    fn ask(
        &self,
        worker: usize,
        headers: &[(&'static str, &str)],
    ) -> Result<Vec<String>, RequestError> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            })
            .collect();
        let client_ip = "10.0.0.1".parse().unwrap();
        let asking = Asking {
            sources: Sources { headers: &headers, api_key_id: "k-1", client_ip },
            request_id: "r-1",
            now_ms: NOW,
        };
        let ModelKind::Routing(routing) = &self.group.kind else { panic!() };
        let counters = self.counters.with_lane(worker).unwrap();
        let order =
            self.workers[worker].order(&self.group, routing, &self.tables, counters, &asking)?;
        Ok(order.iter().map(|found| found.model.display_name.clone()).collect())
    }

    fn order(&self) -> Vec<String> {
        self.ask(0, &[]).unwrap()
    }

    fn deployment<'a>(&self, model_id: &'a str) -> Deployment<'a> {
        Deployment::new(self.counters, model_id)
    }

    fn cool_down(&self, model_id: &str, ms: u64) {
        self.deployment(model_id).cool_down(NOW + ms, Failure::Timeout, NOW);
    }
}

fn group(strategy: Strategy, targets: Vec<RoutingTarget>) -> World {
    world(Routing { strategy, targets, ..Routing::default() })
}

fn abc() -> Vec<RoutingTarget> {
    ["a", "b", "c"].map(target).to_vec()
}

#[test]
fn a_rotation_goes_on_whichever_worker_is_asked() {
    let heavy = RoutingTarget { weight: 2, ..target("a") };
    let world = group(Strategy::RoundRobin, vec![heavy, target("b")]);
    let firsts = (0..6).map(|turn| world.ask(turn % 2, &[]).unwrap().remove(0));
    assert_eq!(firsts.collect::<String>(), "abaaba");
}

#[test]
fn a_target_that_is_left_alone_by_one_worker_is_passed_over_by_all() {
    let world = group(Strategy::Failover, abc());
    assert_eq!(world.ask(1, &[]).unwrap(), ["a", "b", "c"]);
    world.cool_down("id-a", 5000);
    assert_eq!(world.ask(1, &[]).unwrap(), ["b", "c"]);
    assert_eq!(world.order(), ["b", "c"]);
}

#[test]
fn a_lower_tier_comes_after_a_higher_one_whatever_the_strategy_says_within_each() {
    let tier = |model, priority| RoutingTarget { priority, ..target(model) };
    let targets = vec![tier("b", -1), tier("a", 0), tier("c", 0)];
    let world = group(Strategy::LeastCost, targets);
    assert_eq!(world.order(), ["c", "a", "b"]);
    world.cool_down("id-a", 5000);
    world.cool_down("id-c", 5000);
    assert_eq!(world.order(), ["b"]);
}

#[test]
fn the_fastest_and_the_least_busy_are_found_by_what_all_workers_saw() {
    let fastest = group(Strategy::LeastLatency, abc());
    for (id, micros) in [("id-a", 900), ("id-b", 100)] {
        fastest.deployment(id).answered_in(micros, NOW / 1000);
    }
    assert_eq!(fastest.order(), ["c", "b", "a"], "who was not seen yet is to be seen");
    fastest.deployment("id-c").answered_in(500, NOW / 1000);
    assert_eq!(fastest.ask(1, &[]).unwrap(), ["b", "c", "a"]);

    let least_busy = group(Strategy::LeastBusy, abc());
    let other = least_busy.counters.with_lane(7).unwrap();
    let key = least_busy.deployment("id-a").in_flight_key();
    let held = other.hold(key, u64::MAX).unwrap().unwrap();
    assert_eq!(least_busy.order(), ["b", "c", "a"]);
    drop(held);
    assert_eq!(least_busy.order(), ["a", "b", "c"]);
}

#[test]
fn a_key_stays_with_its_target_and_moves_only_while_that_is_away() {
    let world = group(Strategy::ConsistentHash, abc());
    let ask = |worker, key: usize| world.ask(worker, &[("x-aisix-routing-key", &key.to_string())]);
    let before: Vec<_> = (0..200).map(|key| ask(0, key).unwrap()).collect();
    let mut counts = BTreeMap::<_, usize>::new();
    before.iter().for_each(|order| *counts.entry(&order[0]).or_default() += 1);
    assert!(counts.len() == 3 && counts.values().all(|count| *count > 30), "{counts:?}");
    world.cool_down("id-b", 5000);
    for (key, order) in before.iter().enumerate() {
        let left: Vec<_> = order.iter().filter(|name| *name != "b").cloned().collect();
        assert_eq!(ask(1, key).unwrap(), left, "only keys of the one that went have moved");
    }
}

#[test]
fn tags_choose_before_anything_else() {
    let tagged = |model, tags: &[&str]| RoutingTarget {
        tags: tags.iter().map(ToString::to_string).collect(),
        ..target(model)
    };
    let world = group(
        Strategy::Failover,
        vec![tagged("a", &["eu"]), tagged("b", &["us"]), tagged("c", &["default"])],
    );
    let asked = |tags: &str| world.ask(0, &[("x-aisix-routing-tags", tags)]).unwrap();
    assert_eq!(asked("us"), ["b"]);
    assert_eq!(asked("us, eu"), ["a", "b"]);
    assert_eq!(asked("asia"), ["c"]);
    assert_eq!(world.order(), ["c"]);
    world.cool_down("id-b", 1);
    assert!(world.ask(0, &[("x-aisix-routing-tags", "us")]).is_err(), "not to where it may not go");
}

#[test]
fn when_all_are_away_it_is_told_when_the_first_comes_back_or_they_are_tried_as_declared() {
    let routing = Routing { strategy: Strategy::LeastCost, targets: abc(), ..Routing::default() };
    let all_away = |routing| {
        let world = world(routing);
        world.cool_down("id-a", 9000);
        world.cool_down("id-b", 2100);
        world.cool_down("id-c", 60_000);
        world.ask(0, &[])
    };
    let error = all_away(routing.clone()).unwrap_err();
    assert_eq!((error.status().as_u16(), error.retry_after()), (503, Some(3)));
    assert_eq!(error.kind(), "all_candidates_unavailable");
    assert_eq!(all_away(Routing { try_anyway: true, ..routing }).unwrap(), ["a", "b", "c"]);
}

#[test]
fn targets_that_are_not_there_or_are_groups_themselves_are_passed_over() {
    let targets = ["nowhere", "g", "b", "wild/x"].map(target).to_vec();
    assert_eq!(group(Strategy::Failover, targets).order(), ["b", "wild/*"]);
    let error = group(Strategy::Failover, vec![target("nowhere")]).ask(0, &[]).unwrap_err();
    assert_eq!(error.status().as_u16(), 400);
}
