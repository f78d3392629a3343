// The page is loaded again when its server has another version; what is open stays open.
const shown = document.querySelector("[data-version]");
const before = JSON.parse(sessionStorage.getItem("before") || "{}");
const folded = () => [...document.querySelectorAll("details")];
folded().forEach((details, place) => { details.open ||= (before.open || []).includes(place); });
if (before.top) scrollTo(0, before.top);
setInterval(async () => {
  try {
    const reply = await fetch("state", {cache: "no-store"});
    const {version, state} = await reply.json();
    shown.textContent = state;
    if (String(version) === shown.dataset.version) return;
    const open = folded().flatMap((details, place) => details.open ? [place] : []);
    sessionStorage.setItem("before", JSON.stringify({open, top: scrollY}));
    location.reload();
  } catch {
    shown.textContent = "The server has stopped, so this page changes no more.";
  }
}, 3000);
