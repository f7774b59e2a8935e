// Warns before the session ends, and leaves the page when it has ended.
const warning = document.getElementById("warning");
let events;

function listen() {
	events = new EventSource("/events");
	events.addEventListener("left", event => { warning.hidden = Number(event.data) > 120; });
	events.addEventListener("ended", () => {
		events.close();
		location.replace("/ended");
	});
	events.addEventListener("error", () => {
		if (events.readyState === EventSource.CLOSED) setTimeout(listen, 5000); // an outage
	});
}

warning.querySelector("button").addEventListener("click", async () => {
	const answer = await fetch("/stay", {method: "POST"});
	warning.hidden = answer.ok;
});
// Otherwise the answer to "Log out" would be replaced.
addEventListener("beforeunload", () => events.close());
addEventListener("pageshow", event => { if (event.persisted) listen(); }); // by the button "back"
listen();
