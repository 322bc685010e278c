// The worker: keeps the page's files, so that it opens without a server and can say that the server is away.
// The files come from the server first, whenever it answers: a new version is seen at once. Data is never kept.
const CACHE = "penjing-" + "VERSION";
const FILES = ["SHELL"];

self.addEventListener("install", (event) => {
  const fill = async () => {
    const cache = await caches.open(CACHE);
    await cache.addAll(FILES.map((path) => new Request(path, { cache: "reload" })));
    await self.skipWaiting();
  };
  event.waitUntil(fill());
});

self.addEventListener("activate", (event) => {
  const tidy = async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith("penjing-") && name !== CACHE);
    await Promise.all(old.map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(tidy());
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== location.origin || !FILES.includes(url.pathname)) return;
  const answer = async () => {
    try {
      const response = await fetch(event.request);
      if (response.ok || response.status === 304) return response;
      throw new Error(response.statusText); // a proxy before a server that is down
    } catch (error) {
      const kept = await (await caches.open(CACHE)).match(url.pathname);
      if (kept) return kept;
      throw error;
    }
  };
  event.respondWith(answer());
});
