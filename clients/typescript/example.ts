// How the client is used; `npm run check` holds its types together with orphans.ts.
import { getOrphans, getOrphansMetrics, runOrphansFix } from './orphans.js'

export async function quarantinedAndPlanned(token: string): Promise<string> {
  const signedIn = { headers: { Authorization: `Bearer ${token}` } }
  const metrics = await getOrphansMetrics(signedIn)
  const list = await getOrphans({ status: 'quarantined', page_size: 100 }, signedIn)
  const run = await runOrphansFix({ execute: false, limit: 100 }, signedIn)
  if (metrics.status !== 200 || list.status !== 200) throw new Error('the console did not answer')
  if (run.status !== 200 && run.status !== 202) throw new Error(run.data.detail)
  const planned = run.data.stats?.['processed'] ?? 'not yet known'
  return `${metrics.data.quarantined} in quarantine, ${list.data.total} listed, ${planned} planned`
}
