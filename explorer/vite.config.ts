import { defineConfig } from "vite";

export default defineConfig({
  // Relative addresses, so that the page works behind any path prefix.
  base: "./",
  build: {
    outDir: "../log_api/static",
    emptyOutDir: true,
    target: "es2022",
    // Its inline script would be refused by the page's Content-Security-Policy.
    modulePreload: { polyfill: false },
    // No data: addresses, which the policy refuses, too.
    assetsInlineLimit: 0,
  },
});
