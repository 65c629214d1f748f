-- The role under which the service runs: the engine's rights on its tables in this schema, and what a
-- mail needs. It is one of the roles of docs/security.md, without LOGIN.

-- Makes the role if it is missing, which is of the whole cluster, and gives it what it needs here.
-- Returns it if it is missing still, since the caller may not make roles. May be called any number of
-- times; `notification-service migrate` does so each time.
CREATE FUNCTION grant_notifier_rights() RETURNS SETOF text
    LANGUAGE plpgsql
AS $$
BEGIN
    -- Two at once would get in each other's way in the catalog.
    PERFORM pg_advisory_xact_lock(hashtext('grant_order_pipeline_rights'));
    IF to_regrole('order_pipeline_notifier') IS NULL THEN
        BEGIN
            CREATE ROLE order_pipeline_notifier NOLOGIN;
        EXCEPTION
            WHEN insufficient_privilege THEN
                RETURN NEXT 'order_pipeline_notifier';
                RETURN;
            -- Somebody makes it for another database just now.
            WHEN unique_violation OR duplicate_object THEN NULL;
        END;
    END IF;
    PERFORM grant_engine_rights('order_pipeline_notifier');
    -- Another tool that applies these files has tables of its own.
    IF to_regclass('_notification_migrations') IS NOT NULL THEN
        GRANT SELECT ON _notification_migrations TO order_pipeline_notifier;
    END IF;
    GRANT SELECT ON notification_contacts TO order_pipeline_notifier;
    GRANT INSERT ON notifications_sent TO order_pipeline_notifier;
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM grant_notifier_rights()) THEN
        RAISE WARNING 'this user may not create roles, so order_pipeline_notifier is missing'
              USING HINT = 'Make it with CREATE ROLE … NOLOGIN, then SELECT grant_notifier_rights().';
    END IF;
END
$$;
