import { defineConfig, type Rolldown } from "vite";

/** Libraries mark files for React's server with "use client", which means nothing here: 100 warnings in each build. */
function onwarn(warning: Rolldown.RollupLog, warn: (warning: Rolldown.RollupLog) => void): void {
  if (warning.code !== "MODULE_LEVEL_DIRECTIVE") {
    warn(warning);
  }
}

export default defineConfig({
  root: "graphiql",
  base: "/graphiql/",
  build: {
    target: "es2022",
    chunkSizeWarningLimit: 5000, // kB: Monaco's editor is one large chunk by nature
    reportCompressedSize: false,
    rolldownOptions: { onwarn },
  },
});
