"use strict";
// Asks /status/overview every few seconds and shows it. Whatever comes is text: nothing of it is ever taken for markup.
const EVERY_MS = 5000, LIMIT_MS = 8000, STALE_SECS = 12;
const WORDS = {ok: "ok", warning: "look", failed: "failed", wait: "waiting", off: "not used"};
const CHECKS = {started: "Started", heartbeat: "Heartbeat", resources: "Resources", request: "Live request", usage: "Usage delivered"};
const FAVICON = {ok: "%23187a48", warning: "%23e09a20", failed: "%23d02a3a", wait: "%232a5fb4", off: "%2366717d"};
const $ = id => document.getElementById(id);
const list = it => Array.isArray(it) ? it : [];
const tone = state => ({waiting: "wait", serving: "ok"})[state] || (state in WORDS ? state : "off");
let seen = null, receivedAt = 0, failedSince = 0, failure = "";

// Words for numbers.
const number = it => it == null ? "–" : Number(it).toLocaleString("en-US");
const ms = it => it == null ? "–" : it < 1 ? `${it.toFixed(2)} ms` : it < 1000 ? `${it.toFixed(it < 10 ? 1 : 0)} ms` : `${(it / 1000).toFixed(it < 10000 ? 2 : 1)} s`;
const bytes = it => it == null ? "–" : it < 1024 ? `${it} B` : it < 1048576 ? `${(it / 1024).toFixed(1)} KiB` : it < 1073741824 ? `${(it / 1048576).toFixed(1)} MiB` : `${(it / 1073741824).toFixed(2)} GiB`;
function duration(secs) {
  const s = Math.max(0, Math.floor(secs)), d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60;
  return d > 9 ? `${d} d` : d ? `${d} d ${h} h` : h ? `${h} h ${m} min` : m ? `${m} min ${s % 60} s` : `${s} s`;
}
const plural = (count, one, many = one + "s") => `${number(count)} ${count === 1 ? one : many}`;
// The time at the gateway, whatever this machine's clock says.
const now = () => Date.parse(seen.at) + (performance.now() - receivedAt);

// Elements. What has not changed is left alone, so that focus and selection stay.
function text(element, value) { if (element.textContent !== String(value)) element.textContent = value; }
function element(name, attributes = {}, ...children) {
  const it = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value);
  it.append(...children);
  return it;
}
function svg(name, attributes, ...children) {
  const it = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value);
  it.append(...children);
  return it;
}
function fill(root, fields) {
  for (const [name, value] of Object.entries(fields)) text(root.querySelector(`[data-f=${name}]`), value);
}
// One element per item, kept while its key stays.
function each(parent, template, items, key, update) {
  const before = new Map([...parent.children].map(it => [it.dataset.key, it]));
  const after = items.map(item => {
    const name = String(key(item));
    const it = before.get(name) || $(template).content.firstElementChild.cloneNode(true);
    it.dataset.key = name;
    update(it, item);
    return it;
  });
  if (after.length !== parent.children.length || after.some((it, at) => parent.children[at] !== it)) parent.replaceChildren(...after);
}
// A time as its age, which goes on by itself.
function ago(at) {
  const it = element("time", {datetime: at, title: at});
  it.dataset.age = "";
  it.textContent = age(at);
  return it;
}
function age(at) {
  const secs = (now() - Date.parse(at)) / 1000;
  return Number.isNaN(secs) ? at : secs < -1 ? `in ${duration(-secs)}` : `${duration(secs)} ago`;
}
// Rows of a card: name, value, tone, whether it is long.
function rows(card, given) {
  const shown = given.filter(row => row && row[1] != null && row[1] !== "");
  const said = JSON.stringify(shown.map(row => row.map(it => it instanceof Node ? it.textContent + it.title : it)));
  const dl = card.querySelector("dl");
  if (dl.dataset.said === said) return;
  dl.dataset.said = said;
  dl.replaceChildren(...shown.map(([name, value, tone, long]) => {
    const row = element("div", {}, element("dt", {}, name), element("dd", {}, value instanceof Node ? value : String(value)));
    if (tone) row.dataset.tone = tone;
    if (long) row.className = "long";
    return row;
  }));
}
function card(id, tone, big, given) {
  const it = $(id);
  it.dataset.tone = tone;
  text(it.querySelector(".big"), big);
  rows(it, given);
}

// Charts: 100 wide, 30 high, stretched to where they are.
const x = (at, count) => at * 100 / count;
function bars(values, below, top) {
  let path = "";
  values.forEach((value, at) => {
    const from = 30 - (below ? below[at] : 0) * 30 / top, height = value * 30 / top;
    if (value) path += `M${x(at + 0.1, values.length).toFixed(2)} ${from.toFixed(2)}h${(80 / values.length).toFixed(2)}v${(-Math.max(height, 0.6)).toFixed(2)}h${(-80 / values.length).toFixed(2)}z`;
  });
  return path;
}
function line(values, top) {
  let path = "", pen = false;
  values.forEach((value, at) => {
    if (value == null) { pen = false; return; }
    const y = (30 - value * 30 / top).toFixed(2);
    // A step on its own is a short stroke.
    path += pen ? `L${x(at + 0.5, values.length).toFixed(2)} ${y}` : `M${x(at + 0.2, values.length).toFixed(2)} ${y}L${x(at + 0.5, values.length).toFixed(2)} ${y}`;
    pen = true;
  });
  return path;
}
// `big` ones have a scale and words of their own; small ones stand beside their numbers.
function plot(root, paths, words) {
  let drawing = root.querySelector("svg");
  if (!drawing) {
    drawing = svg("svg", {viewBox: "0 0 100 30", preserveAspectRatio: "none", focusable: "false"},
      svg("line", {class: "base", x1: 0, x2: 100, y1: 30, y2: 30, "vector-effect": "non-scaling-stroke"}), ...paths.map(([name]) => svg("path", {class: name})));
    root.append(drawing);
  }
  drawing.setAttribute(words ? "role" : "aria-hidden", words ? "img" : "true");
  if (words) drawing.setAttribute("aria-label", words);
  paths.forEach(([name, path]) => drawing.querySelector("." + name).setAttribute("d", path));
}
const most = values => Math.max(0, ...values.map(it => it || 0));
const latest = values => values.reduce((last, it) => it == null ? last : it, null);
const requestPaths = model => {
  const top = most(model.requests) || 1;
  return [["bars", bars(model.requests, null, top)]];
};
const errorPaths = (model, top) => {
  const refused = model.errors.map((it, at) => it - model.failures[at]);
  return [["failures", bars(model.failures, null, top)], ["errors", bars(refused, model.failures, top)]];
};
const tokenPaths = model => [["bars", bars(model.tokens, null, most(model.tokens) || 1)]];
const latencyPaths = model => {
  const top = most(model.p95_ms) || 1;
  return [["p95", line(model.p95_ms, top)], ["median", line(model.median_ms, top)]];
};
function figure(id, head, paths, top, words) {
  const it = $(id);
  it.querySelector("figcaption span").replaceChildren(...head);
  plot(it.querySelector(".plot"), paths, words);
  let axis = it.querySelector(".axis");
  if (!axis) it.append(axis = element("div", {class: "axis", "aria-hidden": "true"}, element("span", {}, "15 min ago"), element("span"), element("span", {}, "now")));
  text(axis.children[1], top);
}
const share = sum => sum.requests ? ` (${(100 * sum.errors / sum.requests).toPrecision(sum.errors * 10 < sum.requests ? 2 : 3)} %)` : "";
const key = name => element("i", {class: `key ${name}`});

function showTraffic(history) {
  const all = history.all, step = history.step_secs, sum = all.sum;
  const rate = it => `peak ${it / step < 10 ? (it / step).toFixed(1) : number(Math.round(it / step))}/s`;
  const spoken = (what, total, peak) => `${what} in the last 15 minutes: ${total}; ${peak}. The table below has the numbers.`;
  const known = (now() - Date.parse(history.since)) / 1000;
  text($("span"), known > 14.5 * 60 ? "last 15 minutes" : `since the start, ${duration(known)} ago`);
  figure("chart-requests", [number(sum.requests)], requestPaths(all), rate(most(all.requests)), spoken("Requests", number(sum.requests), rate(most(all.requests))));
  figure("chart-errors", [`${number(sum.errors)}${share(sum)}`, key("failures"), `${number(sum.failures)} 5xx`, key("errors"), `${number(sum.errors - sum.failures)} 4xx`],
    errorPaths(all, most(all.errors) || 1), rate(most(all.errors)), spoken("Errors", number(sum.errors), `${number(sum.failures)} of them 5xx`));
  figure("chart-tokens", [number(sum.tokens)], tokenPaths(all), rate(most(all.tokens)), spoken("Tokens", number(sum.tokens), rate(most(all.tokens))));
  const [median, p95] = [ms(latest(all.median_ms)), ms(latest(all.p95_ms))], worst = ms(most(all.p95_ms) || null);
  figure("chart-latency", [key("median"), `median ${median}`, key("p95"), `p95 ${p95}`], latencyPaths(all), `peak ${worst}`, `Latency: median ${median}, 95 of 100 within ${p95}; highest ${worst}.`);
  const models = list(history.models).concat(history.other ? [history.other] : []);
  const notes = {unknown: "no model was named or known", unresolved: "no such model", other: "all the others"};
  $("no-models").hidden = models.length > 0;
  document.querySelector(".models").hidden = models.length === 0;
  each($("models"), "t-model", models, it => it.name, (row, it) => {
    const latency = `${ms(latest(it.median_ms))} · ${ms(latest(it.p95_ms))}`;
    row.querySelector("th").title = it.name;
    fill(row, {name: it.name, note: (Object.hasOwn(notes, it.name) ? notes[it.name] : ""), requests: number(it.sum.requests), errors: number(it.sum.errors) + (it.sum.errors ? share(it.sum) : ""), tokens: number(it.sum.tokens), latency});
    const plots = row.querySelectorAll(".plot");
    [requestPaths(it), errorPaths(it, most(it.errors) || 1), tokenPaths(it), latencyPaths(it)].forEach((paths, at) => plot(plots[at], paths));
  });
  if ($("minutes").open) showMinutes(history);
}
function showMinutes(history) {
  const per = Math.max(1, Math.round(60 / history.step_secs)), all = history.all, body = $("minutes").querySelector("tbody"), made = [];
  for (let end = all.requests.length, minute = 0; end > 0; end -= per, minute++) {
    const of = values => values.slice(Math.max(0, end - per), end), sum = values => number(of(values).reduce((a, b) => a + b, 0));
    made.push(element("tr", {}, element("th", {scope: "row"}, `${minute}–${minute + 1}`),
      ...[sum(all.requests), sum(all.errors), sum(all.failures), sum(all.tokens), ms(most(of(all.p95_ms)) || null)].map(it => element("td", {}, it))));
  }
  body.replaceChildren(...made);
}

function showCertificate(status) {
  const it = status.certificate;
  $("certificate").hidden = !it;
  if (!it) return;
  const from = Date.parse(it.not_before), until = Date.parse(it.expires_at), part = at => Math.min(100, Math.max(0, 100 * (at - from) / (until - from)));
  const left = it.expires_in_secs, state = left <= 0 ? "failed" : left < 3 * 86400 ? "warning" : "ok";
  card("certificate", state, left > 0 ? `${duration(left)} left` : `expired ${duration(-left)} ago`, [
    ["Expires", it.expires_at], ["Renewal", it.renewal], ["Planned", it.next_renewal_at && ago(it.next_renewal_at)],
    ["Last rotation", it.last_rotation_at && ago(it.last_rotation_at)], ["A new one", it.candidate_waiting ? "waits for its proof" : ""],
    ["New bundle", it.new_bundle_needs_restart ? "needs a restart: it is a credential of the service manager" : ""],
    ["Refused", it.last_rejection, "warning", true], ["Data plane", status.identity && status.identity.dp_id],
  ]);
  const bar = $("certificate").querySelector(".life");
  if (!Number.isFinite(from)) return bar.replaceChildren();
  const gone = part(now()), renewal = it.next_renewal_at ? part(Date.parse(it.next_renewal_at)) : -1;
  bar.replaceChildren(svg("svg", {width: "100%", height: "100%", role: "img", "aria-label": `${Math.round(gone)} % of the certificate's life is over${renewal >= 0 ? `, renewal is planned at ${Math.round(renewal)} %` : ""}`},
    svg("rect", {class: "all", width: "100%", height: "100%", rx: 4}), svg("rect", {class: "gone", width: `${gone}%`, height: "100%", rx: 4}),
    ...(renewal >= 0 ? [svg("rect", {class: "renewal", x: `${Math.min(renewal, 99.4)}%`, width: 2, height: "100%"})] : [])));
}
function showFacts(status) {
  showCertificate(status);
  const conf = status.configuration, resources = Object.entries(conf.resources || {}).filter(it => it[1]);
  const lost = conf.source_connected === false, behind = conf.observed_revision !== conf.applied_revision;
  card("configuration", lost && conf.applied_revision != null ? "failed" : conf.rejected_count ? "warning" : conf.applied_revision == null || behind ? "wait" : "ok",
    conf.applied_revision == null ? "none yet" : `revision ${conf.applied_revision}`, [
    ["State", conf.state], ["Observed", behind ? `revision ${conf.observed_revision ?? "–"}` : "", "warning"],
    ["Source", `${conf.source}${lost ? ", away" : ""}`, lost ? "failed" : ""], ["Last heard", conf.last_contact_at && ago(conf.last_contact_at)], ["Applied", conf.applied_at && ago(conf.applied_at)],
    ...resources.map(([kind, count]) => [kind.replaceAll("_", " "), number(count)]),
    ["Rejected", conf.rejected_count || "", "warning"], ["Not honoured in part", conf.partially_compatible_count || ""], ["Failure", lost ? conf.last_failure : "", "failed", true],
  ]);
  const usage = status.usage;
  $("spool").hidden = !status.cloud;
  card("spool", usage.error ? "failed" : usage.shed || usage.dead_letters ? "warning" : "ok", `${plural(usage.waiting, "event")} waiting`, [
    ["Size", bytes(usage.bytes)], ["Oldest", usage.oldest_at && ago(usage.oldest_at)], ["Accepted", number(usage.accepted)], ["Last accepted", usage.last_success_at && ago(usage.last_success_at)],
    ["Kept as totals", usage.waiting_as_totals || ""], ["Shed", usage.shed || "", "warning"], ["Refused for good", usage.dead_letters || "", "warning"], ["Error", usage.error, "failed", true],
  ]);
  const budget = status.budgets;
  $("budgets").hidden = !budget;
  if (budget) card("budgets", budget.error || budget.cloud === "away" ? "failed" : budget.cloud === "doubtful" ? "warning" : "ok", `${number(budget.decided)} of ${plural(budget.keys, "key")} decided`, [
    ["In use", number(budget.in_use)], ["Denied", number(budget.denied)], ["Oldest in use", budget.oldest_in_use_seconds == null ? "" : duration(budget.oldest_in_use_seconds)],
    ["Too old after", duration(budget.stale_after_secs)], ["Then", [["open", budget.fail_open], ["closed", budget.fail_closed], ["sticky", budget.fail_sticky]].filter(it => it[1]).map(it => `${it[0]} ${it[1]}`).join(", ")],
    ["Unknown keys", budget.unknown_keys], ["Cloud", budget.cloud, budget.cloud === "well" ? "" : "warning"], ["Error", budget.error, "failed", true],
  ]);
  const cloud = status.cloud, channels = cloud ? list(cloud.channels) : [], broken = channels.filter(it => it.error).length;
  $("channels").hidden = !cloud;
  card("channels", broken ? "failed" : "ok", broken ? `${broken} of ${plural(channels.length, "channel")} broken` : "every channel works", channels.flatMap(it => [
    [it.name, it.last_contact_at ? ago(it.last_contact_at) : "not yet", it.error ? "failed" : ""], ["", it.error, "failed", true]]));
}
function showProcesses(status) {
  const own = status.supervisor, applied = status.configuration.applied_revision;
  const supervisor = {id: "supervisor", role: "supervisor", pid: own.pid, uid: own.uid, uptime_secs: own.uptime_secs, state: status.state === "ending" ? "ending" : "running"};
  const workers = list(status.workers), serving = workers.filter(it => it.state === "serving").length;
  text($("processes-note"), `${serving} of ${workers.length} workers serve, ${number(status.traffic.in_flight)} requests in flight`);
  each($("processes"), "t-process", [supervisor, ...workers], it => it.id, (li, it) => {
    const is = it === supervisor;
    li.dataset.tone = is || it.state === "serving" ? (it.sandbox_level != null && it.sandbox_level < 3 ? "warning" : "ok") : "wait";
    fill(li, {role: it.role, id: is ? "" : `#${it.id}`, state: is || it.state === "serving" ? `${it.state} for ${duration(it.uptime_secs)}` : it.state});
    rows(li, [
      ["Process", `${it.pid}, ${it.user || (it.uid === 0 ? "root" : it.uid == null ? "no user yet" : `user ${it.uid}`)}`], ["Restarts", is ? "" : number(it.restarts), it.restarts ? "warning" : ""],
      ["Revision", it.revision, it.revision != null && it.revision !== applied ? "warning" : ""], ["Requests", it.requests == null ? "" : number(it.requests)],
      ["In flight", it.requests == null ? "" : number(it.in_flight)], ["Confinement", it.sandbox, it.sandbox_level != null && it.sandbox_level < 3 ? "warning" : ""],
      ["Missing", list(it.missing).join(", "), "", true],
    ]);
  });
}
function showFindings(status) {
  const conf = status.configuration, found = list(status.findings).map(it => ({topic: it.topic.replaceAll("_", " "), since: it.since, text: it.text, tone: "warning"}));
  for (const it of list(conf.rejected)) {
    const stale = it.stale_secs == null ? "It is not served." : `An older version is served, for ${duration(it.stale_secs)} now.`;
    found.push({topic: `rejected: ${it.resource}`, text: `${it.reason}. ${stale} Correct it where it is kept.`, tone: "warning"});
  }
  const more = conf.rejected_count - list(conf.rejected).length;
  if (more > 0) found.push({topic: `${more} more are rejected`, text: "See /status/config for all of them.", tone: "warning"});
  each($("findings"), "t-finding", found, it => it.topic, (li, it) => {
    li.dataset.tone = it.tone;
    fill(li, {topic: it.topic, text: it.text});
    const since = li.querySelector("[data-f=since]");
    if (it.since && since.firstChild?.dateTime !== it.since) since.replaceChildren(ago(it.since));
  });
  return found.length;
}
function verdictOf(status, found) {
  const of = state => list(status.checks).filter(it => it.state === state), [failed] = of("failed"), [warned] = of("warning");
  const name = it => CHECKS[it.name] || it.name;
  if (status.state === "ending") return ["wait", "Ending", "The gateway finishes what it has and leaves."];
  if (failed || status.state === "degraded") return ["failed", "Not well", failed ? `${name(failed)}: ${failed.evidence}` : "A worker that should serve does not."];
  if (status.state === "starting") return ["wait", "Starting", "Not every worker serves yet."];
  if (status.state === "waiting") return ["wait", "Waiting for configuration", `Nothing is configured yet${status.configuration.last_failure ? `: ${status.configuration.last_failure}` : "; every worker is there."}`];
  if (warned) return ["warning", "Needs a look", `${name(warned)}: ${warned.evidence}`];
  if (found) return ["warning", "Needs a look", `It serves. ${plural(found, "thing is", "things are")} out of order, see below.`];
  const waits = of("waiting").map(name);
  return ["ok", "Well", waits.length ? `Every worker serves. Not seen yet: ${waits.join(", ").toLowerCase()}.` : "Every check holds."];
}
function verdict([tone, word, reason]) {
  if (document.body.dataset.tone !== tone) $("icon").href = `data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><circle cx='8' cy='8' r='7' fill='${FAVICON[tone]}'/></svg>`;
  document.body.dataset.tone = tone;
  text($("verdict"), word);
  text($("reason"), reason);
  const where = seen && seen.status.environment;
  const title = `${word}${where ? ` · ${where}` : ""} · aisix`;
  if (document.title !== title) document.title = title;
}
function show() {
  const {status, history} = seen;
  each($("checks"), "t-check", list(status.checks), it => it.name, (li, it) => {
    li.dataset.tone = tone(it.state);
    li.title = it.title;
    fill(li, {name: CHECKS[it.name] || it.name, word: WORDS[tone(it.state)], evidence: it.evidence});
  });
  const found = showFindings(status), said = verdictOf(status, found);
  $("no-findings").hidden = found > 0 || said[0] === "failed";
  $("hint").hidden = found === 0 && said[0] !== "failed";
  for (const [id, value] of [["environment", status.environment || "none"], ["mode", status.mode], ["uptime", duration(status.uptime_secs)], ["version", status.version]]) text($(id), value);
  showTraffic(history);
  showFacts(status);
  showProcesses(status);
  return said;
}
// Once a second: what has grown older, and whether it is too old.
function tick(said) {
  if (seen) {
    for (const it of document.querySelectorAll("time[data-age]")) text(it, age(it.dateTime));
    $("fresh").dateTime = seen.at;
    text($("fresh"), age(seen.at));
  }
  const old = seen ? (performance.now() - receivedAt) / 1000 : 0, silent = failedSince > 0 && (!seen || old > STALE_SECS);
  document.body.classList.toggle("stale", silent);
  if (silent) verdict(["failed", "No answer", `${failure} ${seen ? `What is below was so at ${seen.at}.` : ""} Is the gateway running? On the host: aisix status, and its log.`]);
  else if (said) verdict(said);
}
let last = null, asking = false;
async function ask() {
  if (asking || document.hidden) return;
  asking = true;
  let told = null;
  try {
    const answer = await fetch("/status/overview", {cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(LIMIT_MS)});
    failure = answer.ok ? "" : `It answers with status ${answer.status}.`;
    if (answer.ok) told = await answer.json();
  } catch (error) {
    failure = error.name === "SyntaxError" ? "What it answers is not complete." : "It does not answer.";
  }
  asking = false;
  if (told) {
    [seen, receivedAt, failedSince] = [told, performance.now(), 0];
    last = show();
  } else failedSince ||= performance.now();
  tick(last);
}
$("minutes").addEventListener("toggle", () => { if (seen && $("minutes").open) showMinutes(seen.history); });
document.addEventListener("visibilitychange", ask);
setInterval(ask, EVERY_MS);
setInterval(() => tick(last), 1000);
ask();
