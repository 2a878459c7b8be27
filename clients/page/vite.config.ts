import { defineConfig } from "vite";

const server = process.env.UNSWAY_URL ?? "http://127.0.0.1:8000";

export default defineConfig({
  base: "./", // behind a proxy the page may stand under a path of its own
  build: {
    outDir: "../../server/page",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the policy of the page takes no data: URLs
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: { proxy: { "/v1": server, "/health": server } },
});
