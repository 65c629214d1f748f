-- The ranges: what `order-consumer purge` runs, by hand.
\timing on
SET lock_timeout = '1500ms';
SELECT count(summarize_claims(leaf::text)::text) FROM claim_leaves()
 WHERE is_week AND until_id <= claim_bound(now() - interval '30 days');
SET lock_timeout = '50ms';
SELECT * FROM claims_to_purge(now() - interval '30 days') \gset
SELECT empty_claim_leaf(:'leaf', now() - interval '30 days') AS kept;
SELECT count(*) AS left_to_purge FROM claims_to_purge(now() - interval '30 days');
