-- The catalogue of gifts. Rows of tenant 0 are everybody's; a tenant's own row of the same gift_id takes their place,
-- and hides the gift when it is not active.

create table realtime.gifts (
    tenant_id int not null default 0,
    gift_id text not null check (gift_id ~ '^[a-z0-9_]{1,32}$'),
    name text not null check (length(name) between 1 and 40),
    emoji text not null check (length(emoji) between 1 and 16),
    price_coins bigint not null check (price_coins between 1 and 1000000000),
    active boolean not null default true,
    primary key (tenant_id, gift_id)
);

insert into realtime.gifts (gift_id, name, emoji, price_coins) values
    ('rose', 'Rose', '🌹', 5),
    ('coffee', 'Coffee', '☕', 10),
    ('star', 'Star', '⭐', 20),
    ('heart', 'Heart', '💖', 50),
    ('cake', 'Cake', '🎂', 100),
    ('crown', 'Crown', '👑', 500),
    ('diamond', 'Diamond', '💎', 1000);
