// Files and event streams are no JSON: fetch them by their address.
module.exports = {
  orphans: {
    input: { target: './openapi.json', filters: { mode: 'exclude', tags: ['files'] } },
    output: { target: './orphans.ts', client: 'fetch' },
  },
}
