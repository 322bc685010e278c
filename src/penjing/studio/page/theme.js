// Runs before anything is drawn, so that the page never flashes in the wrong colours or language.
const kept = (name) => {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // storage is switched off
  }
};
document.documentElement.dataset.theme = kept("theme") ?? "auto";
document.documentElement.lang = kept("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
