// The script of the console: starts runs, follows them, and fetches what is slow. What it shows is
// rendered by the server, so it holds no texts and no rules; without it the pages still read.
"use strict";

const HTTP_CONFLICT = 409;
const LOOK_FOR_RUN_MS = 600;
const POLL_MS = 1000;

const $ = (selector, root = document) => root.querySelector(selector);

// --- parts that come later ---

function notice(kind, text, detail, detailsLabel) {
    const box = document.createElement("div");
    box.className = `notice notice-${kind}`;
    const paragraph = document.createElement("p");
    paragraph.textContent = text;
    box.append(paragraph);
    if (detail) {
        const details = document.createElement("details");
        const summary = document.createElement("summary");
        const words = document.createElement("p");
        summary.textContent = detailsLabel;
        words.className = "detail";
        words.lang = "en";
        words.textContent = detail;
        details.append(summary, words);
        box.append(details);
    }
    return box;
}

async function loadLater(place) {
    const skeleton = place.dataset.skeleton ?? place.innerHTML;
    place.dataset.skeleton = skeleton;
    place.innerHTML = skeleton;
    place.setAttribute("aria-busy", "true");
    let detail = "";
    try {
        const answer = await fetch(place.dataset.later, { headers: { Accept: "text/html" } });
        const html = await answer.text();
        if (answer.ok && !answer.redirected) {
            place.innerHTML = html;
            place.removeAttribute("aria-busy");
            return;
        }
        if (answer.status === 401) return location.reload();
        const parsed = new DOMParser().parseFromString(html, "text/html");
        detail = $(".detail", parsed)?.textContent ?? `HTTP ${answer.status}`;
    } catch (error) {
        detail = String(error.message ?? error);
    }
    const box = notice("error", place.dataset.error, detail, place.dataset.textDetails);
    const again = document.createElement("button");
    again.type = "button";
    again.className = "button";
    again.textContent = place.dataset.retry;
    again.addEventListener("click", () => loadLater(place));
    box.setAttribute("role", "alert");
    box.append(again);
    place.replaceChildren(box);
    place.removeAttribute("aria-busy");
}

// --- the fix ---

class Fix {
    constructor(panel) {
        this.panel = panel;
        this.place = $("[data-run-place]", panel);
        this.form = $("[data-dry-run]", panel);
        this.problem = $("[data-problem]", panel);
        this.announcer = $("[data-announce]", panel);
        this.number = new Intl.NumberFormat(panel.dataset.locale);
        this.isBusy = false; // from a click to the end of its run: a second click does nothing
        this.watched = null;
        this.form.addEventListener("submit", (event) => {
            event.preventDefault();
            this.dryRun();
        });
        this.bind();
        document.addEventListener("visibilitychange", () => {
            if (document.visibilityState === "visible" && !this.isBusy) this.attach();
        });
    }

    // What the server has just rendered: its buttons, and the run if one is on.
    bind() {
        const run = $("[data-run]", this.place);
        const stop = $("[data-stop]", this.place);
        const execute = $("[data-execute]", this.place);
        stop?.addEventListener("click", () => this.stop(run.dataset.run, stop));
        execute?.addEventListener("click", () => this.ask(execute));
        this.isBusy = run?.dataset.state === "running";
        this.enable();
        if (this.isBusy) this.watch(run.dataset.run);
    }

    enable() {
        const isOff = "off" in this.form.dataset;
        const start = $("[data-needs-script]", this.form);
        start.disabled = isOff || this.isBusy;
        for (const button of this.place.querySelectorAll("[data-needs-script]")) {
            button.disabled = this.isBusy && !("stop" in button.dataset);
        }
    }

    dryRun() {
        const limit = this.form.elements.limit.value;
        this.start({
            execute: false,
            limit: limit ? Number(limit) : null,
            reprocess_quarantined: this.form.elements.reprocess_quarantined.checked,
        });
    }

    // The dialog: only the number of drivers, typed, opens the way.
    ask(execute) {
        const dialog = $("[data-confirm]", this.place);
        const typed = $("[data-typed]", dialog);
        const confirmed = $("[data-confirmed]", dialog);
        const wrong = $("[data-wrong]", dialog);
        const drivers = execute.dataset.drivers;
        const isRight = () => typed.value.replace(/[\s.,]/g, "") === drivers;
        typed.value = "";
        confirmed.disabled = true;
        wrong.hidden = true;
        typed.oninput = () => {
            confirmed.disabled = !isRight();
            wrong.hidden = isRight() || typed.value.replace(/[\s.,]/g, "").length < drivers.length;
            typed.setAttribute("aria-invalid", String(!wrong.hidden));
        };
        $("[data-cancel]", dialog).onclick = () => dialog.close();
        $("form", dialog).onsubmit = (event) => {
            event.preventDefault();
            if (!isRight()) {
                wrong.hidden = false;
                return;
            }
            dialog.close();
            this.start({
                execute: true,
                plan: execute.dataset.plan,
                expected_drivers: Number(drivers),
            });
        };
        dialog.showModal();
        typed.focus();
    }

    async start(request) {
        if (this.isBusy) return;
        this.isBusy = true;
        this.problem.replaceChildren();
        this.enable();
        this.showSending();
        // The answer may take its time: what is on is looked for meanwhile, to show its progress.
        const looking = setInterval(() => this.attach(), LOOK_FOR_RUN_MS);
        const answer = await this.call("", request);
        clearInterval(looking);
        if (answer.ok) {
            if (answer.body.state === "running") await this.show(answer.body.id);
            else await this.finish(answer.body.id);
            return;
        }
        this.showSent();
        this.tell(answer);
        if (this.watched) return;
        this.isBusy = false;
        this.enable();
        if (answer.status !== HTTP_CONFLICT) return;
        await this.attach();
        if (this.watched) this.announce(this.panel.dataset.textAnother);
    }

    async call(path, body) {
        try {
            const answer = await fetch(this.panel.dataset.api + path, {
                method: "POST",
                headers: { "Content-Type": "application/json", Accept: "application/json" },
                body: JSON.stringify(body ?? {}),
            });
            const said = await answer.json().catch(() => ({}));
            return { ok: answer.ok, status: answer.status, body: said };
        } catch {
            return { ok: false, status: "network", body: {} };
        }
    }

    tell(answer) {
        const said = answer.body.detail;
        const detail = typeof said === "string" ? said : "";
        const text =
            this.panel.getAttribute(`data-problem-${answer.status}`) ??
            this.panel.getAttribute("data-problem-500");
        const box = notice("error", text, detail, this.panel.dataset.textDetails);
        const details = $("details", box);
        if (details) details.open = true;
        this.problem.replaceChildren(box);
        if (answer.status === 401) location.reload();
    }

    announce(text) {
        if (this.announcer.textContent !== text) this.announcer.textContent = text;
    }

    // What was shown before is out of the way until there is an answer.
    showSending() {
        this.showSent();
        this.place.hidden = true;
        const box = document.createElement("div");
        box.className = "progress run";
        const bar = document.createElement("progress");
        bar.setAttribute("aria-label", this.panel.dataset.textProgress);
        const step = document.createElement("p");
        step.textContent = this.panel.dataset.textStarting;
        box.append(bar, step);
        this.sending = box;
        this.place.before(box);
        this.announce(step.textContent);
    }

    showSent() {
        this.sending?.remove();
        this.place.hidden = false;
    }

    // Show the run that is on, whoever started it: this tab, another one, another person.
    async attach() {
        if (this.watched) return;
        const answer = await fetch("/runs/current?part=1").catch(() => null);
        if (answer?.status !== 200 || answer.redirected) return;
        const html = await answer.text();
        const id = $("[data-run]", new DOMParser().parseFromString(html, "text/html"))?.dataset.run;
        if (!this.watched && id !== this.finished) this.replace(html); // else it has ended meanwhile
    }

    async show(id) {
        if (this.watched === id) return;
        const html = await this.fragment(id);
        if (html !== null && this.watched !== id) this.replace(html);
    }

    async fragment(id) {
        const answer = await fetch(`/runs/${id}?part=1`).catch(() => null);
        return answer?.ok && !answer.redirected ? answer.text() : null;
    }

    replace(html) {
        this.showSent();
        this.place.innerHTML = html;
        this.bind();
    }

    // Follow a run to its end: by server-sent events, and by asking where they do not come through.
    watch(id) {
        if (this.watched === id) return;
        this.watched = id;
        const address = `${this.panel.dataset.api}/${id}`;
        const events = new EventSource(`${address}/events`);
        const isOver = (run) => {
            this.update(run);
            if (run.state === "running") return false;
            events.close();
            this.finish(id);
            return true;
        };
        events.onmessage = (event) => isOver(JSON.parse(event.data));
        events.onerror = () => {
            events.close();
            const poll = async () => {
                if (this.watched !== id) return;
                const answer = await fetch(address).catch(() => null);
                if (answer?.status === 404) return this.finish(id);
                if (answer?.status === 401) return location.reload();
                if (!answer?.ok) this.tell({ status: answer?.status ?? "network", body: {} });
                else {
                    this.problem.replaceChildren();
                    if (isOver(await answer.json())) return;
                }
                setTimeout(poll, POLL_MS);
            };
            setTimeout(poll, POLL_MS);
        };
    }

    update(run) {
        const bar = $("[data-progress]", this.place);
        const step = $("[data-step]", this.place);
        if (!bar || !step || run.state !== "running") return;
        if (run.drivers_total && run.drivers_done) {
            bar.max = run.drivers_total;
            bar.value = run.drivers_done;
        } else {
            bar.removeAttribute("value");
        }
        const isStopping = "stopping" in bar.dataset;
        const texts = this.panel.dataset;
        const text = {
            planning: texts.textPlanning,
            applying: texts.textApplying
                .replace("{done}", this.number.format(run.drivers_done))
                .replace("{total}", this.number.format(run.drivers_total ?? 0)),
            reporting: texts.textReporting,
        }[run.step];
        if (text) step.textContent = isStopping ? `${text} ${texts.textStopping}` : text;
        // Not each number is read out: the step, and every tenth of the way.
        const tenth = run.drivers_total ? Math.floor((10 * run.drivers_done) / run.drivers_total) : 0;
        const key = `${run.step} ${tenth}`;
        if (text && key !== this.announced) {
            this.announced = key;
            this.announce(text);
        }
    }

    async stop(id, button) {
        button.disabled = true;
        const bar = $("[data-progress]", this.place);
        if (bar) bar.dataset.stopping = "";
        const step = $("[data-step]", this.place);
        if (step) step.textContent = this.panel.dataset.textStopping;
        this.announce(this.panel.dataset.textStopping);
        const answer = await this.call(`/${id}/stop`);
        if (!answer.ok) {
            this.tell(answer);
            button.disabled = false;
        }
    }

    async finish(id) {
        if (this.finished === id) return;
        this.finished = id;
        const html = await this.fragment(id);
        this.watched = null;
        this.showSent();
        if (html !== null) {
            this.replace(html);
            const title = $("#run-title", this.place);
            title?.focus({ preventScroll: true });
            this.announce(title?.textContent.replace(/\s+/g, " ").trim() ?? "");
        } else {
            this.isBusy = false;
            this.enable();
        }
        if ($("[data-mode=execute]", this.place)) await this.refresh();
    }

    // After an execute, what the page says of the database is of yesterday: read it anew.
    async refresh() {
        const answer = await fetch(location.href).catch(() => null);
        if (!answer?.ok) return;
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const old of document.querySelectorAll("[data-live]")) {
            const fresh = $(`[data-live="${old.dataset.live}"]`, page);
            if (fresh) old.replaceWith(document.adoptNode(fresh));
        }
        this.announce(`${this.announcer.textContent} ${this.panel.dataset.textRefresh}`);
    }
}

for (const place of document.querySelectorAll("[data-later]")) loadLater(place);
const panel = $("[data-fix]");
if (panel) new Fix(panel);
